"""Real numbers as integers with a scale and a zero point: reading them, and rounding to them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """The numbers that integers can stand for; scale and zero point are told for every entry."""

    scale: np.ndarray  # Of the values' type
    zero: np.ndarray  # Int64
    low: int  # Bounds of the integers in use
    high: int
    axis: int | None  # Along which the scale may vary; None where it is one number
    symmetric: bool  # Whether the zero point is in the middle of the integers

    def real(self, integers: np.ndarray) -> np.ndarray:
        """Return what integers stand for."""
        steps = (integers.astype(np.int64) - self.zero).astype(self.scale.dtype)
        return np.asarray(steps * self.scale)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Return the integers that come nearest to values, int64."""
        steps = np.rint(values.astype(np.float64) / self.scale.astype(np.float64))
        return np.asarray(np.clip(steps + self.zero, self.low, self.high).astype(np.int64))


def fitted(values: np.ndarray, grid: Grid, least: np.ndarray | None = None) -> Grid:
    """Return a grid on which values lie: the given one where they do, else one as wide as they are.

    Parameters
    ----------
    values : array
        Of the shape of the grid's scale.
    least : (channels,) or () array, optional
        Smallest scales that are allowed.
    """
    others = tuple(a for a in range(values.ndim) if a != grid.axis)
    exact = (grid.real(grid.nearest(values)) == values).all(others, keepdims=True)
    exact = exact & _same(grid.scale, others) & _same(grid.zero, others)
    old = grid.scale.max(others, keepdims=True, initial=0)
    floor = np.zeros_like(old) if least is None else np.asarray(least).reshape(old.shape)
    exact = exact & (old >= floor)
    scale, zero = _widest(values.astype(np.float64), grid, others)
    scale = np.where(scale > 0, np.maximum(scale, floor), np.maximum(old, floor))
    scale = np.where(exact, old, scale).astype(values.dtype)
    zero = np.where(exact, grid.zero.max(others, keepdims=True, initial=grid.low), zero)
    shape = values.shape
    return Grid(
        np.broadcast_to(scale, shape),
        np.broadcast_to(zero.astype(np.int64), shape),
        grid.low,
        grid.high,
        grid.axis,
        grid.symmetric,
    )


def _same(numbers: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Tell along which channels numbers are all the same."""
    first = numbers[tuple(slice(1) if a in axes else slice(None) for a in range(numbers.ndim))]
    return np.asarray((numbers == first).all(axes, keepdims=True))


def _widest(values: np.ndarray, grid: Grid, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest scale, and its zero point, that reach all values of a channel."""
    low = np.minimum(values.min(axes, keepdims=True, initial=0.0), 0.0)
    high = np.maximum(values.max(axes, keepdims=True, initial=0.0), 0.0)
    if grid.symmetric:
        zero = grid.zero.max(axes, keepdims=True, initial=grid.low)
        steps = np.maximum(1, np.minimum(grid.high - zero, zero - grid.low))
        return np.maximum(-low, high) / steps, zero
    scale = (high - low) / (grid.high - grid.low)
    safe = np.where(scale > 0, scale, 1.0)
    zero = np.clip(np.rint(grid.low - low / safe), grid.low, grid.high)
    return scale, zero
