"""Which parts of a model are present: what vanished with a group costs nothing.

A group of width 0 closes every path through it. A part is present as long as one of its paths to
the model's outputs is open, that is, none of the groups on this path has vanished. The basis of a
layer that may be written as two closes its paths at its full width instead: then the layer is left
whole.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Paths = frozenset[frozenset[int]]
"""For each path to the outputs the groups that can close it, as indices."""

ALWAYS: Paths = frozenset({frozenset[int]()})
"""Of a part that vanishes with no group."""

Bools = npt.NDArray[np.bool_]


def fewest(paths: Iterable[frozenset[int]]) -> Paths:
    """Drop every path that contains another one: it is open only if that one is."""
    every = set(paths)
    return frozenset(path for path in every if not any(other < path for other in every))


def is_open(paths: Paths, closed: frozenset[int]) -> bool:
    """Whether a part is present when some groups are closed."""
    return any(not path & closed for path in paths)


class Gates:
    """Paths of many parts as one matrix.

    Parameters
    ----------
    parts : sequence of Paths
    groups : int
    """

    def __init__(
        self, parts: Sequence[Paths], groups: int, closed_at: npt.NDArray[np.int64] | None = None
    ) -> None:
        self._closed_at = np.zeros(groups, np.int64) if closed_at is None else closed_at
        rows = [
            (part, sorted(path))
            for part, paths in enumerate(parts)
            for path in sorted(paths, key=sorted)
        ]
        self._part = np.array([part for part, _ in rows], np.int64)
        self._parts = len(parts)
        self._closes = np.zeros((len(rows), groups), bool)
        for row, (_, path) in enumerate(rows):
            self._closes[row, path] = True

    def present(self, widths: npt.NDArray[np.int64]) -> Bools:
        """Tell the parts that are present, (parts,), at widths of shape (groups,)."""
        open_paths = ~(self._closes & (np.asarray(widths) == self._closed_at)).any(axis=1)
        return self._any(open_paths[:, None])[:, 0]

    def present_if(self, widths: npt.NDArray[np.int64], *, closed: bool) -> Bools:
        """Tell the parts that are present if one group alone closed its paths, or opened them.

        Returns
        -------
        (parts, groups) bool array
        """
        now = self._closes & (np.asarray(widths) == self._closed_at)
        by_others = now.sum(axis=1, keepdims=True) > now
        return self._any(~by_others & ~self._closes if closed else ~by_others)

    def _any(self, open_paths: Bools) -> Bools:
        found = np.zeros((self._parts, open_paths.shape[1]), bool)
        np.logical_or.at(found, self._part, open_paths)
        return found
