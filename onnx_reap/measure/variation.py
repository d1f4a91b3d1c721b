"""How much outputs vary over samples, which is what output errors are relative to.

The error of an output is the squared error, summed over samples and entries, divided by the squared
deviations of every entry from its own mean over the samples, summed likewise: 1 is the error of a
model that ignores its input. Means and deviations are streamed.

Axes along which samples differ in size share one mean. Where nothing varies over the samples, as
with a single one, deviations are those from the mean of all entries, and where these are all equal,
from 0. Entries that are not finite don't count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.analysis import Analysis

ROUNDING = 1e-12
"""Of the squares of an output: no larger deviations are those of float32's rounding."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Means:
    """Counts and means of entries, and the sum of squared deviations from these."""

    count: Array
    mean: Array
    squares: float

    @classmethod
    def of(cls, x: Array) -> _Means:
        """Take samples of one shape, (n, *entries)."""
        finite = np.isfinite(x)
        count = finite.sum(axis=0).astype(np.float64)
        mean = np.where(finite, x, 0.0).sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, float(np.square(np.where(finite, x - mean, 0.0)).sum()))

    def __add__(self, other: _Means) -> _Means:
        count, away = self.count + other.count, other.mean - self.mean
        share = other.count / np.maximum(count, 1)
        between = float((np.square(away) * self.count * share).sum())
        return _Means(count, self.mean + away * share, self.squares + other.squares + between)

    def over(self, axes: tuple[int, ...]) -> _Means:
        """Give all entries along some axes one mean."""
        count = self.count.sum(axis=axes, keepdims=True)
        mean = (self.count * self.mean).sum(axis=axes, keepdims=True) / np.maximum(count, 1)
        between = float((self.count * np.square(self.mean - mean)).sum())
        return _Means(count, mean, self.squares + between)

    @property
    def varies(self) -> bool:
        """Whether deviations are more than rounding."""
        power = float((self.count * np.square(self.mean)).sum()) + self.squares
        return self.squares > ROUNDING * power


class Variation:
    """What an output's entries deviate from, and by how much, from samples as they come."""

    def __init__(self) -> None:
        self._by_shape: dict[tuple[int, ...], _Means] = {}

    def add(self, x: Array) -> None:
        """Take more samples, (n, *entries)."""
        new = _Means.of(x)
        old = self._by_shape.get(x.shape[1:])
        self._by_shape[x.shape[1:]] = new if old is None else old + new

    @property
    def total(self) -> float:
        """Squared deviations, summed over samples and entries."""
        return self._means().squares

    def deviations(self, x: Array) -> Array:
        """Return the squared deviations of some of the samples, summed over entries, (n,)."""
        away = np.where(np.isfinite(x), x - self._means().mean, 0.0)
        result: Array = np.square(away).reshape(len(x), -1).sum(axis=1)
        return result

    def relative(self, squared_error: float) -> float:
        """Divide the squared error of all samples by the total; of an output of zeros return it."""
        total = self.total
        return squared_error / total if total > 0 else squared_error

    def _means(self) -> _Means:
        shapes = list(self._by_shape)
        uneven = tuple(a for a, sizes in enumerate(zip(*shapes, strict=True)) if len({*sizes}) > 1)
        first, *others = (each.over(uneven) for each in self._by_shape.values())
        found = sum(others, first)
        if found.varies:
            return found
        found = found.over(tuple(range(found.mean.ndim)))
        if found.varies:
            return found
        power = found.squares + float((found.count * np.square(found.mean)).sum())
        return _Means(found.count, np.zeros_like(found.mean), power)


def by_sample(analysis: Analysis, output: str, x: np.ndarray, count: int) -> Array:
    """Return what a run gives of an output in float64, samples along a first axis of their own.

    What has no such axis is one sample for every run; rows whose number depends on values are
    samples, each.
    """
    grows = analysis.probe.dynamic.get(output, frozenset())
    if analysis.fixed_batch is not None and x.ndim:
        grows = frozenset({0})
    x = x.astype(np.float64)
    if not grows:
        return x[None]
    x = np.moveaxis(x, min(grows), 0)
    each = 1 if len(x) % count else max(len(x) // count, 1)
    return x.reshape(len(x) // each, each, *x.shape[1:])
