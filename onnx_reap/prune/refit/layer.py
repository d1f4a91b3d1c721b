"""Refit of one layer from sampled rows.

The layer gives y = X W + b; behind it stand u = scale * y + shift, an addend s, and possibly a
clipping activation. In the original model u + s was t. The least squares target for y is

    (t - s - shift) / scale.

Where t lay beyond a bound of the clipping activation, it does not matter how far beyond: there the
target is the present prediction, if that lies beyond the bound too, or else the bound. Solving and
setting targets in turns never raises the (damped) error behind the activation, since each target is
the point nearest to the prediction among those that are as good as t: majorisation by a quadratic.

Layers that share a weight are one problem: the weight is fitted to the rows of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.onnxio.dtypes import is_half, rounded
from onnx_reap.prune.refit.clip import Clip
from onnx_reap.prune.refit.least_squares import LeastSquares, View
from onnx_reap.solve.backend import Backend

ROUNDS = 2  # of solving and setting targets, where an activation clips
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
class Use:
    """One layer of those that have a weight: what it receives, adds, and what follows it."""

    rows: Rows
    bias: npt.NDArray[np.float64]  # (g, O)
    epilogue: Epilogue  # What follows; scale and shift are those of g * O outputs
    number: int = 0  # Of its bias: uses of equal number have one


@dataclass(frozen=True)
class Fitted:
    """A new weight (g, D, O) and biases (g, O) by number; errors relative to targets' variance.

    They are the old ones where new ones would be no better.
    """

    weight: npt.NDArray[np.float64]
    biases: Sequence[npt.NDArray[np.float64]]
    damping: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class LayerRefit:
    """Refit of one layer: relative output error before and after, on fitted samples."""

    node: str
    damping: float
    error_before: float
    error_after: float


def fit_layer(
    uses: Sequence[Use],
    weight: np.ndarray,
    backend: Backend,
    stored: npt.DTypeLike = np.float32,
    mask: npt.NDArray[np.bool_] | None = None,
    *,
    on_all: bool,
) -> Fitted:
    """Refit a layer, or all layers that share a weight.

    Parameters
    ----------
    weight : (g, D, O) float64 array
        Current weight; damping draws towards it.
    stored : dtype
        Type that weights and biases will be rounded to; the error allows for that.
    mask : (g, D, O) bool array, optional
        True where weights stay. The others are zero in `weight`, and remain so.
    on_all : bool
        Whether rows that validate are fitted as well, once they have chosen the damping.

    Returns
    -------
    Fitted
        Never with a larger error on these rows than before.
    """
    scale, shift = _common_units(uses, len(weight))
    asks = scale != 0
    safe = np.where(asks, scale, 1.0)
    views = [_view(use, scale, shift, backend) for use in uses]
    clips = [view.clip for view in views]
    old = [b for _, b in sorted({use.number: use.bias for use in uses}.items())]
    start, offsets = weight * scale, [b[:, None] * scale + shift for b in old]
    problem = LeastSquares(views, start, offsets, backend, mask, on_all=on_all)

    before = _error(clips, problem.predict(start, offsets))
    damping = problem.choose()
    w, biases = problem.solve([clip.wanted for clip in clips], damping)
    now = problem.predict(w, biases)
    again = any(c.bites for c in clips) and math.isfinite(damping) and not problem.is_slow
    for _ in range(ROUNDS if again else 0):
        targets = [clip.nearest(z) for clip, z in zip(clips, now, strict=True)]
        w, biases = problem.solve(targets, damping)
        now = problem.predict(w, biases)
    new_weight = np.where(asks, w / safe, weight)
    new = [
        np.where(asks, (b - shift) / safe, was[:, None]) for b, was in zip(biases, old, strict=True)
    ]
    if is_half(stored):
        w, *biases = (rounded(x, stored) for x in (new_weight, *new))
        if all(np.isfinite(x).all() for x in (w, *biases)):  # else it won't be written
            now = problem.predict(w * scale, [b * scale + shift for b in biases])
    after = _error(clips, now)
    if not after < before:
        return Fitted(weight, old, float("inf"), before, before)
    return Fitted(new_weight, [b[:, 0] for b in new], damping, before, after)


def _common_units(uses: Sequence[Use], groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift, (g, 1, O), of the units in which a weight is fitted.

    What follows all uses alike, or else the root mean square of the scales; zero where no use asks.
    """
    scales, shifts = zip(*(_affine(use, groups) for use in uses), strict=True)
    alike = all(_same(s, scales[0]) for s in scales) and all(_same(s, shifts[0]) for s in shifts)
    if alike:
        return scales[0], shifts[0]
    return np.sqrt(np.mean(np.square(scales), axis=0)), np.zeros_like(shifts[0])


def _affine(use: Use, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine map behind a use, (g, 1, O); zero for outputs that ask nothing."""
    epilogue = use.epilogue
    scale, shift = (v.reshape(groups, 1, -1) for v in (epilogue.scale, epilogue.shift))
    asks = np.abs(scale) > WEAK * np.abs(scale).max()
    return scale * asks, shift * asks


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or np.array_equal(a, b)


def _view(use: Use, scale: np.ndarray, shift: np.ndarray, backend: Backend) -> View:
    """See a use in common units."""
    own_scale, own_shift = _affine(use, len(scale))
    asks = own_scale != 0
    rows = use.rows.of_outputs(asks)
    clip = Clip(use.epilogue.low, use.epilogue.high, rows.wanted)
    ratio = np.divide(own_scale, scale, out=np.zeros_like(scale), where=asks)
    plain = _same(own_scale, scale) and _same(own_shift, shift)
    x = backend.to_device(rows.x)
    own = own_shift - ratio * shift
    return View(x, clip, rows.addend, rows.fit, use.number, ratio, own, plain)


def _error(clips: Sequence[Clip], now: Sequence[npt.NDArray[np.float32]]) -> float:
    """Mean squared error behind the activations, relative to the variance there, over all rows."""
    rows = [z.shape[1] for z in now]
    miss = sum(n * clip.miss(z) for n, clip, z in zip(rows, clips, now, strict=True))
    variance = sum(n * clip.variance for n, clip in zip(rows, clips, strict=True))
    return float(miss / (variance if variance > 0 else sum(rows)))


def fit_constant(rows: Rows, constant: np.ndarray, epilogue: Epilogue, *, on_all: bool) -> Fitted:
    """Fit what is added in place of a branch that vanished.

    Parameters
    ----------
    constant : (1, O) float64 array
        Current values.
    on_all : bool
        Whether rows that validate are fitted as well.

    Returns
    -------
    Fitted
        The constant as the bias, of an empty weight: without inputs it is the mean of the target.
    """
    clip, target = Clip(epilogue.low, epilogue.high, rows.wanted), rows.wanted
    empty = np.zeros((1, 0, constant.shape[1]))
    fits = slice(None) if on_all or not rows.fit else slice(rows.fit)
    before = _error([clip], [_shifted(rows.x, constant)])
    for _ in range(1 + ROUNDS * clip.bites):
        fitted = (target - rows.x)[:, fits].mean(axis=1, dtype=np.float64)
        now = _shifted(rows.x, fitted)
        target = clip.nearest(now)
    after = _error([clip], [now])
    if not after < before:
        return Fitted(empty, [constant], math.inf, before, before)
    return Fitted(empty, [fitted], 0.0, before, after)


def _shifted(x: npt.NDArray[np.float32], by: np.ndarray) -> npt.NDArray[np.float32]:
    return x + by[:, None].astype(np.float32)
