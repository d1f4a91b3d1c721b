"""Nodes that the user wants to be left alone."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from onnx_reap.options import Settings


def exclusion(settings: Settings) -> Callable[[str], str | None]:
    """Make the function that tells why a node's channels must stay by the user's wish."""

    def why(key: str) -> str | None:
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in settings.exclude):
            return "excluded by --exclude"
        if settings.include and not any(fnmatch.fnmatchcase(key, p) for p in settings.include):
            return "not among --include"
        return None

    return why
