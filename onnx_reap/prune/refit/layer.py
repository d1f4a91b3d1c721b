"""Refit of one layer from sampled rows.

The layer gives y = X W + b; behind it stand u = scale * y + shift, an addend s, and possibly a
clipping activation. In the original model u + s was t. The least squares target for y is

    (t - s - shift) / scale.

Where t lay beyond a bound of the clipping activation, it does not matter how far beyond: there the
target is the present prediction, if that lies beyond the bound too, or else the bound. Solving and
setting targets in turns never raises the (damped) error behind the activation, since each target is
the point nearest to the prediction among those that are as good as t: majorisation by a quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.onnxio.dtypes import is_half, rounded
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.masked import masked_ridge
from onnx_reap.solve.moments import Moments, moments_of
from onnx_reap.solve.ridge import best_damping, ridge, ridge_rows, weakest_that_helps

ROUNDS = 2  # of solving and setting targets, where an activation clips
DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, float("inf"))
SLOW = 1e12  # multiplications of a masked layer's solve
VALIDATED = 16  # outputs of a masked layer that its damping is validated on
WEAK = 1e-4  # outputs scaled less than this, relative to the largest, ask nothing of the layer


@dataclass(frozen=True)
class Rows:
    """Samples of one layer, n rows of g maps."""

    x: npt.NDArray[np.float32]  # (g, n, D) float32: inputs as the pruned model gives them
    # (g, n, O) float32: what stood behind the layer (`Epilogue.tensor`) in the original
    wanted: npt.NDArray[np.float32]
    # (g, n, O) float32: what is added behind the layer in the pruned model
    addend: npt.NDArray[np.float32] | None
    # So many rows come first and fit the layer when its damping is chosen; the others validate
    fit: int

    def of_outputs(self, asks: npt.NDArray[np.bool_]) -> Rows:
        """Set outputs that ask nothing, (g, 1, O), to zero, where they cost nothing either."""
        if asks.all():
            return self
        addend = None if self.addend is None else self.addend * asks
        return Rows(self.x, self.wanted * asks, addend, self.fit)


@dataclass(frozen=True)
class Fitted:
    """A layer's new weight (g, D, O) and bias (g, O); errors relative to the target's variance.

    They are the old ones where new ones would be no better.
    """

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    damping: float
    error_before: float
    error_after: float


def fit_layer(
    rows: Rows,
    weight: np.ndarray,
    bias: np.ndarray,
    epilogue: Epilogue,
    backend: Backend,
    stored: npt.DTypeLike = np.float32,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Fitted:
    """Refit a layer.

    Parameters
    ----------
    weight : (g, D, O) float64 array
        Current weight; damping draws towards it.
    bias : (g, O) float64 array
    epilogue : Epilogue
        What follows; scale and shift are those of g * O outputs.
    stored : dtype
        Type that weights and biases will be rounded to; the error allows for that.
    mask : (g, D, O) bool array, optional
        True where weights stay. The others are zero in `weight`, and remain so.

    Returns
    -------
    Fitted
        Never with a larger error on these rows than before.
    """
    groups = len(weight)
    scale, shift = (v.reshape(groups, 1, -1) for v in (epilogue.scale, epilogue.shift))
    asks = np.abs(scale) > WEAK * np.abs(scale).max()
    safe = np.where(asks, scale, 1.0)
    start, offset = weight * scale * asks, (bias[:, None] * scale + shift) * asks
    rows = rows.of_outputs(asks)
    clip = Clip(epilogue.low, epilogue.high, rows.wanted)
    problem = _Problem(rows, start, backend, mask)

    before = clip.error(problem.predict(start, offset))
    damping = problem.choose()
    w, b = problem.solve(rows.wanted, damping)
    now = problem.predict(w, b)
    again = clip.bites and math.isfinite(damping) and not problem.is_slow
    for _ in range(ROUNDS if again else 0):
        w, b = problem.solve(clip.nearest(now), damping)
        now = problem.predict(w, b)
    new_weight = np.where(asks, w / safe, weight)
    new_bias = np.where(asks, (b - shift) / safe, bias[:, None])
    if is_half(stored):
        w, b = rounded(new_weight, stored), rounded(new_bias, stored)
        if np.isfinite(w).all() and np.isfinite(b).all():  # else it won't be written
            now = problem.predict(w * scale * asks, (b * scale + shift) * asks)
    after = clip.error(now)
    if not after < before:
        return Fitted(weight, bias, float("inf"), before, before)
    return Fitted(new_weight, new_bias[:, 0], damping, before, after)


def fit_constant(rows: Rows, constant: np.ndarray, epilogue: Epilogue) -> Fitted:
    """Fit what is added in place of a branch that vanished.

    Parameters
    ----------
    constant : (1, O) float64 array
        Current values.

    Returns
    -------
    Fitted
        The constant as the bias, of an empty weight: without inputs it is the mean of the target.
    """
    clip, target = Clip(epilogue.low, epilogue.high, rows.wanted), rows.wanted
    empty = np.zeros((1, 0, constant.shape[1]))
    before = clip.error(_shifted(rows.x, constant))
    for _ in range(1 + ROUNDS * clip.bites):
        fitted = (target - rows.x).mean(axis=1, dtype=np.float64)
        now = _shifted(rows.x, fitted)
        target = clip.nearest(now)
    after = clip.error(now)
    if not after < before:
        return Fitted(empty, constant, math.inf, before, before)
    return Fitted(empty, fitted, 0.0, before, after)


def _shifted(x: npt.NDArray[np.float32], by: np.ndarray) -> npt.NDArray[np.float32]:
    return x + by[:, None].astype(np.float32)


class Clip:
    """The activation behind a layer, as far as it clips, and what stood before it."""

    def __init__(self, low: float, high: float, wanted: npt.NDArray[np.float32]) -> None:
        self._low, self._high, self._wanted = low, high, wanted
        self._behind = self._apply(wanted)
        self._variance = float(np.var(self._behind, axis=1, dtype=np.float64).sum())

    @property
    def bites(self) -> bool:
        """Whether there is a bound at all."""
        return bool(np.isfinite(self._low) or np.isfinite(self._high))

    def nearest(self, now: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the values nearest to `now` that come out of the activation as wanted."""
        target = self._wanted.copy()
        np.minimum(now, self._low, out=target, where=self._wanted <= self._low, casting="same_kind")
        np.maximum(
            now, self._high, out=target, where=self._wanted >= self._high, casting="same_kind"
        )
        return target

    def error(self, now: npt.NDArray[np.float32]) -> float:
        """Mean squared error behind the activation, relative to the variance there."""
        miss = self._apply(now) - self._behind
        error = float(np.einsum("gno,gno->", miss, miss, dtype=np.float64)) / miss.shape[1]
        result: float = error / self._variance if self._variance > 0 else error
        return result

    def _apply(self, u: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.clip(u, self._low, self._high) if self.bites else u


class _Problem:
    """Least squares for changing targets on the same inputs."""

    def __init__(
        self,
        rows: Rows,
        start: np.ndarray,
        backend: Backend,
        mask: npt.NDArray[np.bool_] | None,
    ) -> None:
        self._rows, self._backend, self._mask = rows, backend, mask
        self._x = backend.to_device(rows.x)
        self._start = backend.to_device(start)
        self._moments: Moments | None = None

    @property
    def _is_wide(self) -> bool:
        """Whether there are fewer rows than columns, so that the dual form is the smaller one.

        Within a mask every output has columns of its own: there, moments serve all.
        """
        n, columns = self._rows.x.shape[1:]
        return n < columns and self._mask is None

    @property
    def is_slow(self) -> bool:
        """Whether each solve takes long, with a system for every output."""
        return self._mask is not None and float((self._mask.sum(axis=1) ** 3.0).sum()) > SLOW

    def predict(self, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return what stands behind the layer, (g, n, O) float32; b is (g, 1, O)."""
        to_device = self._backend.to_device
        y = self._x @ to_device(w.astype(np.float32)) + to_device(b.astype(np.float32))
        y = self._backend.to_host(y)
        return y if self._rows.addend is None else y + self._rows.addend

    def choose(self) -> float:
        """Return the damping that does best on the validation rows."""
        fit, n = self._rows.fit, self._rows.x.shape[1]
        if not 0 < fit < n:
            return DAMPINGS[len(DAMPINGS) // 2]
        some = self._validated()
        y = self._backend.to_device(self._target(self._rows.wanted)[..., some])
        sides = [(self._x[:, s, :], y[:, s, :]) for s in (slice(0, fit), slice(fit, n))]
        if not self._is_wide:
            fit_part, validation = (moments_of(*side) for side in sides)
            self._moments = fit_part.merge(validation)
            return best_damping(
                fit_part, validation, self._start[..., some], DAMPINGS, self._solver(some)
            )
        (x, y), (x_test, y_test) = sides

        def error(damping: float) -> float:
            w, b = ridge_rows(x, y, self._start, damping)
            miss = self._backend.to_host(x_test @ w + b[..., None, :] - y_test)
            return float(np.square(miss).mean())

        return weakest_that_helps(DAMPINGS, error)

    def solve(self, wanted: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Fit to all rows; return (g, D, O) weights and (g, 1, O) biases."""
        y = self._backend.to_device(self._target(wanted))
        if self._is_wide:
            w, b = ridge_rows(self._x, y, self._start, damping)
        else:
            known = self._moments
            self._moments = (
                moments_of(self._x, y) if known is None else known.retargeted(self._x, y)
            )
            w, b = self._solver(slice(None))(self._moments, self._start, damping)
        to_host = self._backend.to_host
        return to_host(w), to_host(b)[:, None, :]

    def _solver(self, outputs: slice) -> Callable[[Moments, Any, float], tuple[Any, Any]]:
        if self._mask is None:
            return ridge
        return partial(masked_ridge, mask=self._mask[..., outputs])

    def _validated(self) -> slice:
        """Choose outputs to validate a damping on: within a mask each costs a system of its own."""
        outputs = self._rows.wanted.shape[-1]
        return slice(None, None, 1 if self._mask is None else -(-outputs // VALIDATED))

    def _target(self, wanted: np.ndarray) -> np.ndarray:
        return wanted if self._rows.addend is None else wanted - self._rows.addend
