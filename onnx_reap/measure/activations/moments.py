"""Second moments at the inputs of layers, streamed: activations are folded in and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.rows import not_finite, sampled_rows
from onnx_reap.options import Settings
from onnx_reap.solve.checks import NotFiniteError
from onnx_reap.solve.moments import Moments

BLOCK = 1024  # rows of a layer folded in at once
ENTRIES = 2**22  # of a layer's rows, past which fewer positions are taken
FEWEST_ROWS = 8  # by unknown, before rows are saved
MOST_ROWS = 64  # by unknown, past which rows are saved if every sample gives `ENOUGH`
ENOUGH = 8  # positions of every sample
MOST_ENTRIES = 2**27  # of a layer's rows in any case


@dataclass(frozen=True)
class Tap:
    """A layer whose input is observed, or several of one weight."""

    linear: Linear
    columns: int
    # (U, B) int: columns that share one coefficient each: the rows become B times as many and as
    # much narrower, (n * B, U). For layers too wide for a matrix of all pairs of columns.
    fold: np.ndarray | None = None
    # Layers with the same weight: what is removed from it is removed from all of them
    others: tuple[Linear, ...] = ()
    refitted: bool = True  # Whether a refit may change the weight

    @property
    def layers(self) -> tuple[Linear, ...]:
        """All layers whose rows are taken."""
        return (self.linear, *self.others)

    @property
    def width(self) -> int:
        """Columns of the moments."""
        return self.columns if self.fold is None else len(self.fold)


def one_per_weight(nodes: Iterable[str], taps: Mapping[str, Tap]) -> list[str]:
    """Keep the first of the layers that share a weight: its moments stand for all of them."""
    shared = {layer.node for tap in taps.values() for layer in tap.others}
    return [node for node in nodes if node not in shared]


def positions_for(
    columns: int, per_row: int, samples: int, limit: int, entries: int = ENTRIES
) -> int:
    """Output positions per sample: `limit`, or fewer where they cost much and add little.

    Parameters
    ----------
    columns : int
        Unknowns of one map, which the rows must outnumber well.
    per_row : int
        Numbers that a row holds, over all maps.
    limit : int
        What the user asked for at most.
    entries : int
        Numbers in all rows, past which positions are saved.
    """
    samples = max(samples, 1)
    rows = max(entries / per_row, FEWEST_ROWS * columns)
    rows = min(rows, MOST_ENTRIES / per_row, max(MOST_ROWS * columns, ENOUGH * samples))
    return int(np.clip(np.ceil(rows / samples), 1, limit))


def capture_moments(
    analysis: Analysis,
    taps: Sequence[Tap],
    samples: Calibration,
    settings: Settings,
    *,
    total: int,
    to_device: Callable[[np.ndarray], Any],
    on_batch: Callable[[int], object] | None = None,
) -> LayerMoments:
    """Observe the inputs of layers over all samples.

    Parameters
    ----------
    settings : Settings
        Of which `positions` and `seed` are read.
    total : int
        Samples in all, those that are captured apart included.

    Returns
    -------
    LayerMoments
        By node: moments of input patches, shape (g, D, D).
    """
    sums = {tap.linear.node: _Sum(tap.linear, to_device) for tap in taps}
    tap_of = {linear.node: tap for tap in taps for linear in tap.layers}
    layers = [
        (linear, _positions(tap, linear, total, settings)) for tap in taps for linear in tap.layers
    ]
    for linear, rows in sampled_rows(analysis, layers, samples, settings.seed, on_batch):
        tap = tap_of[linear.node]
        sums[tap.linear.node].add(_folded(tap, rows))
    for moments in sums.values():
        moments.close()
    return LayerMoments({node: (moments,) for node, moments in sums.items()})


def _positions(tap: Tap, linear: Linear, samples: int, settings: Settings) -> int:
    per_row = tap.width * linear.group
    return positions_for(tap.width, per_row, samples * len(tap.layers), settings.positions)


class LayerMoments(Mapping[str, Moments]):
    """Moments by node.

    Where a layer has fewer rows than columns the rows are kept, which are smaller than the moments,
    and multiplied whenever the moments are read.
    """

    def __init__(self, sums: Mapping[str, tuple[_Sum, ...]]) -> None:
        self._sums = sums

    def __getitem__(self, node: str) -> Moments:
        sums = self._sums[node]
        found = [each.folded for each in sums if each.folded.count]
        if waiting := [rows for each in sums for rows in each.waiting]:
            found.append(sums[0].fold(waiting, Moments()))
        return reduce(Moments.merge, found) if found else Moments()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def with_rows_of(self, other: LayerMoments) -> LayerMoments:
        """Return the moments of both sets of rows, of the same layers."""
        return LayerMoments({node: (*own, *other._sums[node]) for node, own in self._sums.items()})


class _Sum:
    """Moments of rows that come a few at a time: each product adds a (D, D) array, however few."""

    def __init__(self, linear: Linear, to_device: Callable[[np.ndarray], Any]) -> None:
        self._linear = linear
        self._to_device = to_device
        self.folded = Moments()
        self.waiting: list[np.ndarray] = []  # (g, n, D) rows that are not in there yet

    def add(self, rows: np.ndarray) -> None:
        """Take (g, n, D) rows."""
        self.waiting.append(rows)
        if self._are_many(BLOCK):
            self._fold_all()

    def close(self) -> None:
        """Fold what is waiting, unless it is all there is, and less than moments are."""
        if self.waiting and (self.folded.count or self._are_many(0)):
            self._fold_all()

    def fold(self, waiting: Sequence[np.ndarray], moments: Moments) -> Moments:
        """Add rows to moments."""
        try:
            moments.update(self._to_device(np.concatenate(waiting, axis=1)))
        except NotFiniteError:
            raise not_finite(self._linear) from None
        return moments

    def _are_many(self, least: int) -> bool:
        columns = self.waiting[0].shape[2]
        return bool(sum(rows.shape[1] for rows in self.waiting) >= max(least, columns))

    def _fold_all(self) -> None:
        self.fold(self.waiting, self.folded)
        self.waiting.clear()


def _folded(tap: Tap, rows: np.ndarray) -> np.ndarray:
    """Make columns that share a coefficient rows of their own."""
    if tap.fold is None:
        return rows
    folded = rows[0][:, tap.fold]  # (n, U, B)
    result: np.ndarray = folded.transpose(0, 2, 1).reshape(1, -1, len(tap.fold))
    return result
