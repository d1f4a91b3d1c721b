"""Nodes that the user wants to be left alone."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase


def exclusion(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], str | None]:
    """Make the function that tells why a node's channels must stay by the user's wish.

    Parameters
    ----------
    include, exclude : sequence of str
        Globs on the keys of nodes. An empty `include` includes all nodes.
    """

    def why(key: str) -> str | None:
        if any(fnmatchcase(key, pattern) for pattern in exclude):
            return "excluded by --exclude"
        if include and not any(fnmatchcase(key, pattern) for pattern in include):
            return "not among --include"
        return None

    return why
