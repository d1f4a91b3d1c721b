"""The removal path of a channel group: in which order its units go, and what each removal costs.

A group's units (channels) feed one or more consumers (linear maps). Each step removes the unit
whose removal, *after* refitting every other weight, raises the summed error of all consumers least;
one sweep gives the whole error-versus-width curve [1]_. The algebra is in `elimination`.

The error of a consumer with Gram matrix G and weight W is that of the damped problem,

    min over W' that is zero outside the kept units of  tr((W' - W)^T (G + l I) (W' - W)),

with l = damping * mean(diag G).

References
----------
.. [1] K. Kamma, T. Wada, "REAP: A Method for Pruning Convolutional Neural Networks with Performance
       Preservation", IEICE Trans. Inf. & Syst. E104-D(1), 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import array_api_compat as compat
import numpy as np

from onnx_reap.solve.backend import Array, on_device, to_host
from onnx_reap.solve.checks import check_finite
from onnx_reap.solve.dual import dual
from onnx_reap.solve.elimination import Elimination

_TIE = 1e-12
"""Scores this close, relative to the largest at the start, differ by rounding alone."""


@dataclass(frozen=True)
class Consumer:
    """One linear map that reads the group's units."""

    # (D, D) float64: centred second moment of its input patches (mean over samples), not damped
    gram: Array
    weight: Array  # (D, O) float64: each output already scaled by how much it matters
    # (U, B) int: the columns of `gram` that belong to each unit; -1 where a unit has fewer than B,
    # or none. Columns that no unit names stay for good and help to reconstruct the others.
    columns: Array
    # Whether the weights that stay are refitted. If they are not, `gram` is the moment about 0.
    refitted: bool = True


@dataclass(frozen=True)
class RemovalPath:
    """What removing units one after the other costs."""

    order: np.ndarray  # (steps,) int64: units, first removed first
    # (steps,) float64: error of the refitted consumers after each removal, summed over them, in
    # squared units of the (weighted) outputs; never decreases
    errors: np.ndarray


def removal_path(
    consumers: Sequence[Consumer],
    *,
    steps: int,
    damping: float = 1e-2,
    parts: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
) -> RemovalPath:
    """Remove units one by one and record the error after each removal.

    Parameters
    ----------
    consumers : sequence of Consumer
        All with the same number of units U, and all in one array namespace and on one device.
    steps : int
        Number of removals, 1 to U.
    damping : float
        Added to each Gram matrix's diagonal, relative to its mean; at least 1e-9. Which
        units go hardly depends on it between 1e-6 and 1e-1.
    parts : sequence of int, shape (U,), optional
        Label of the partition of each unit (the groups of a grouped convolution), all equally
        large. Removal then visits the parts in rounds, so that after every round all parts have
        lost equally many.
    order : sequence of int, at least `steps` long, optional
        Remove these units in this order instead of choosing; `parts` is then not consulted.

    Returns
    -------
    RemovalPath
        Units without variance go first and cost nothing; among equals the lowest index goes first.
    """
    for k, consumer in enumerate(consumers):
        check_finite(f"consumers[{k}].gram", consumer.gram)
        check_finite(f"consumers[{k}].weight", consumer.weight)
    columns = [to_host(consumer.columns) for consumer in consumers]
    readers = [
        _Reader(c, cols, damping) if c.refitted else _FixedReader(c, cols)
        for c, cols in zip(consumers, columns, strict=True)
    ]
    labels = np.zeros(columns[0].shape[0]) if parts is None else np.asarray(parts)
    zero = on_device(np.zeros(()), like=consumers[0].gram)
    taken, increases = [], []
    for unit in islice(_greedy(readers, labels) if order is None else map(int, order), steps):
        taken.append(unit)
        increases.append(sum((r.remove(unit) for r in readers if unit in r), start=zero))
    xp = compat.array_namespace(zero)
    errors = np.cumsum(to_host(xp.stack(increases)))
    return RemovalPath(np.asarray(taken), np.maximum.accumulate(errors))


def _greedy(readers: Sequence[_Reader | _FixedReader], parts: np.ndarray) -> Iterator[int]:
    """Yield the cheapest unit among the parts that have lost the fewest, as the scores then are.

    Its index is the only number that comes to the host.
    """
    total = sum(reader.scores() for reader in readers)
    xp = compat.array_namespace(total)
    tie = _TIE * xp.max(total)
    members = on_device(parts == np.unique(parts)[:, None], like=total)
    alive = xp.ones(total.shape[0], dtype=xp.bool, device=compat.device(total))
    while True:
        lost = xp.sum(xp.astype(members & ~alive, xp.int64), axis=1)
        in_turn = xp.any(members & (lost == xp.min(lost))[:, None], axis=0)
        total = sum(reader.scores() for reader in readers)
        scores = xp.where(alive & in_turn, total, xp.inf)
        cheapest = xp.astype(scores <= xp.min(scores) + tie, xp.int64)
        unit = int(to_host(xp.argmax(cheapest)))  # the first of several
        alive[unit] = False
        yield unit


class _Reader:
    """A consumer under elimination, addressed by the group's units rather than its own."""

    def __init__(self, consumer: Consumer, columns: np.ndarray, damping: float) -> None:
        own = np.flatnonzero((columns >= 0).any(axis=1))
        self._slots = {int(unit): slot for slot, unit in enumerate(own)}
        position = np.full(columns.shape[0], own.size)
        position[own] = np.arange(own.size)
        self._position = on_device(position, like=consumer.gram)
        P, W = dual(consumer.gram, consumer.weight, columns[own], damping)
        self._elimination = Elimination(P, W, columns.shape[1])
        self._scores: Array = None

    def __contains__(self, unit: int) -> bool:
        return unit in self._slots

    def remove(self, unit: int) -> Array:
        """Remove a unit that this consumer reads; the error increase, shape ()."""
        self._scores = None
        return self._elimination.remove(self._slots[unit])

    def scores(self) -> Array:
        """Return this consumer's share of every unit's score, shape (U,)."""
        if self._scores is None:
            own = self._elimination.scores()
            xp = compat.array_namespace(own)
            not_read = xp.zeros(1, dtype=own.dtype, device=compat.device(own))
            self._scores = xp.take(xp.concat([own, not_read]), self._position)
        return self._scores


class _FixedReader:
    """A consumer whose weights stay as they are: what it loses with units R is |X_R W_R|^2."""

    def __init__(self, consumer: Consumer, columns: np.ndarray) -> None:
        gram, weight = consumer.gram, consumer.weight
        members = np.zeros((gram.shape[0] + 1, columns.shape[0]))
        members[columns, np.arange(columns.shape[0])[:, None]] = 1.0
        of_unit = on_device(members[:-1], like=gram)
        xp = compat.array_namespace(gram)
        products = gram * (weight @ xp.matrix_transpose(weight))
        self._pairs = xp.matrix_transpose(of_unit) @ products @ of_unit
        self._increase = xp.linalg.diagonal(self._pairs)

    def __contains__(self, unit: int) -> bool:
        return True

    def remove(self, unit: int) -> Array:
        """Remove a unit; the error increase, shape ()."""
        increase = self._increase[unit]
        self._increase = self._increase + 2 * self._pairs[:, unit]
        return increase

    def scores(self) -> Array:
        """Return this consumer's share of every unit's score, shape (U,)."""
        return self._increase
