"""Which parts of a model are there: what a group that vanished took along costs nothing.

A group of width 0 closes every way through it. A part is there as long as one of its ways to the
model's outputs is open, that is, none of the groups on this way has vanished. The basis of a layer
that may be written as two closes its ways at its full width instead: then the layer is left whole.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ways = frozenset[frozenset[int]]
"""For each way to the outputs the groups that can close it, as indices."""

ALWAYS: Ways = frozenset({frozenset[int]()})
"""Of a part that no group takes along."""

Bools = npt.NDArray[np.bool_]


def fewest(ways: Iterable[frozenset[int]]) -> Ways:
    """Leave out ways that are closed whenever another one is not open, since they add nothing."""
    every = set(ways)
    return frozenset(way for way in every if not any(other < way for other in every))


def is_open(ways: Ways, gone: frozenset[int]) -> bool:
    """Whether a part is there when some groups have vanished."""
    return any(not way & gone for way in ways)


class Gates:
    """Ways of many parts as one matrix.

    Parameters
    ----------
    parts : sequence of Ways
    groups : int
    """

    def __init__(
        self, parts: Sequence[Ways], groups: int, shut: npt.NDArray[np.int64] | None = None
    ) -> None:
        self._shut = np.zeros(groups, np.int64) if shut is None else shut
        rows = [
            (part, sorted(way))
            for part, ways in enumerate(parts)
            for way in sorted(ways, key=sorted)
        ]
        self._part = np.array([part for part, _ in rows], np.int64)
        self._parts = len(parts)
        self._closes = np.zeros((len(rows), groups), bool)
        for row, (_, way) in enumerate(rows):
            self._closes[row, way] = True

    def there(self, widths: npt.NDArray[np.int64]) -> Bools:
        """Tell the parts that are there, (parts,), at widths of shape (groups,)."""
        open_ways = ~(self._closes & (np.asarray(widths) == self._shut)).any(axis=1)
        return self._any(open_ways[:, None])[:, 0]

    def there_if(self, widths: npt.NDArray[np.int64], *, gone: bool) -> Bools:
        """Tell the parts that are there if one group alone shut its ways, or opened them.

        Returns
        -------
        (parts, groups) bool array
        """
        closed = self._closes & (np.asarray(widths) == self._shut)
        by_others = closed.sum(axis=1, keepdims=True) > closed
        return self._any(~by_others & ~self._closes if gone else ~by_others)

    def _any(self, open_ways: Bools) -> Bools:
        found = np.zeros((self._parts, open_ways.shape[1]), bool)
        np.logical_or.at(found, self._part, open_ways)
        return found
