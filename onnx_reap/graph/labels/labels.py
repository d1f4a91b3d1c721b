"""Channel labels: a union-find whose label 0 means "frozen", and arrays of labels.

A label array has the shape of the tensor that it describes. Axes along which labels don't vary
are stride-0 views, so an array costs as much memory as its channels, not as its tensor.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LabelArray = npt.NDArray[np.int64]

FROZEN = 0
ZERO: LabelArray = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Reason:
    """Why channels must stay: the node (or tensor) that says so, and a sentence."""

    node: str
    text: str


class Labels:
    """Disjoint sets of labels; every set is one unit that lives or dies as a whole.

    Uniting a set with label 0 freezes it, and each of its members then carries the reason.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._size = 1
        self._members: dict[int, list[int]] = {}  # of roots with more than one
        self.reasons: dict[int, Reason] = {}  # Why a label is frozen, for labels that are

    def fresh(self, count: int) -> LabelArray:
        """Return `count` new labels, shape (count,), each a set of its own."""
        start, self._size = self._size, self._size + count
        if self._size > len(self._parent):
            grown = np.zeros(2 * self._size, np.int64)
            grown[:start] = self._parent[:start]
            self._parent = grown
        new = np.arange(start, self._size, dtype=np.int64)
        self._parent[start : self._size] = new
        return new

    def roots(self, labels: LabelArray) -> LabelArray:
        """Return the representative of every label's set, same shape (views stay views)."""
        core = collapse(labels)
        found = self._parent[core]
        while not np.array_equal(up := self._parent[found], found):
            found = up
        return np.broadcast_to(found, labels.shape)

    def unite(self, a: LabelArray, b: LabelArray, reason: Reason) -> bool:
        """Unite the labels that meet in two broadcastable arrays; return whether sets changed.

        `reason` is noted for the channels that this freezes.
        """
        rank = max(a.ndim, b.ndim)
        a, b = (collapse(raise_rank(x, rank)) for x in (a, b))
        a, b = np.broadcast_arrays(self.roots(a), self.roots(b))
        pairs = np.stack([a.ravel(), b.ravel()], axis=1)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        changed = [self._join(int(i), int(j), reason) for i, j in pairs]
        return any(changed)

    def freeze(self, labels: LabelArray, reason: Reason) -> bool:
        """Freeze every label of an array; return whether sets changed."""
        return self.unite(np.unique(collapse(labels)), ZERO, reason)

    def _root(self, label: int) -> int:
        while (up := int(self._parent[label])) != label:
            label = up
        return label

    def _join(self, i: int, j: int, reason: Reason) -> bool:
        small, large = sorted((self._root(i), self._root(j)))
        if small == large:
            return False
        self._parent[large] = small
        moved = self._members.pop(large, [large])
        if small == FROZEN:
            self._parent[moved] = FROZEN
            self.reasons.update((label, reason) for label in moved)
        else:
            self._members.setdefault(small, [small]).extend(moved)
        return True


def collapse(labels: LabelArray) -> LabelArray:
    """Shrink every stride-0 axis to length 1; broadcasting restores the array."""
    return first_along(labels, [axis for axis, step in enumerate(labels.strides) if step == 0])


def compress(labels: LabelArray) -> LabelArray:
    """Turn axes along which labels don't vary into stride-0 views."""
    core = collapse(labels)
    for axis in range(core.ndim):
        first = first_along(core, [axis])
        if core.shape[axis] > 1 and (core == first).all():
            core = first
    return np.broadcast_to(core, labels.shape)


def varying_axes(labels: LabelArray) -> tuple[int, ...]:
    """Return the axes along which labels differ."""
    core = collapse(compress(labels))
    return tuple(axis for axis, size in enumerate(core.shape) if size > 1)


def along(vector: LabelArray, shape: Sequence[int], axis: int) -> LabelArray:
    """Spread a vector of labels along one axis of a tensor of the given shape."""
    view = vector.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(view, shape)


def vector_along(labels: LabelArray, axis: int) -> LabelArray:
    """Read the labels along one axis, at the first entry of all others."""
    return labels[tuple(slice(None) if i == axis else 0 for i in range(labels.ndim))]


def first_along(labels: LabelArray, axes: Iterable[int]) -> LabelArray:
    """Keep the first entry of the given axes (which stay, with length 1)."""
    axes = set(axes)
    return labels[tuple(slice(1) if i in axes else slice(None) for i in range(labels.ndim))]


def raise_rank(labels: LabelArray, rank: int) -> LabelArray:
    """Put axes of length 1 in front, as broadcasting does."""
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
