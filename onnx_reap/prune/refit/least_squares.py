"""Least squares for one weight over the rows of all its uses, for changing targets.

    minimise over W and the biases b_k:   sum over uses u of  c_u mean |T_u - X_u W - b_k(u)|^2

plus the damping. All uses speak in common units, see `Use` and `in_common_units`; those of one `k`
have one bias.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_reap.prune.refit.clip import Clip
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.masked import masked_ridge
from onnx_reap.solve.moments import Moments, centred, moments_of, pooled
from onnx_reap.solve.ridge import residual, ridge, ridge_rows, weakest_that_helps

DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, float("inf"))
SLOW = 1e12  # multiplications of a masked layer's solve
VALIDATED = 16  # outputs of a masked layer that its damping is validated on

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """The rows of one use, whose output is z = ratio * (X W + b) + shift + addend."""

    x: Any  # (g, n, D) float32, on the device
    clip: Clip  # What follows z, and what stood there in the original
    addend: Rows | None  # (g, n, O)
    fit: int  # So many rows come first and fit when the damping is chosen
    bias: int  # Uses of equal number have one bias
    ratio: np.ndarray  # (g, 1, O); 0 for outputs that ask nothing
    shift: np.ndarray  # (g, 1, O)
    plain: bool  # Whether ratio is 1 and shift 0 for all outputs that the weight has

    @property
    def importance(self) -> float:
        """How much a squared error in common units counts."""
        asked = self.ratio[self.ratio != 0]
        return 1.0 if self.plain or not asked.size else float(np.square(asked).mean())

    def target(self, z: Rows, start: Rows | None) -> Rows:
        """Return what X W + b is to be for z; outputs that ask nothing stay as at the start."""
        y = z if self.addend is None else z - self.addend
        if start is None:
            return y
        asks = self.ratio != 0
        y = (y - self.shift) / np.where(asks, self.ratio, 1.0)
        return np.where(asks, y, start).astype(np.float32)


class LeastSquares:
    """The problem of one weight.

    Parameters
    ----------
    start : (g, D, O) float64 array
        The weight that damping draws towards.
    biases : sequence of (g, 1, O) float64 arrays
        Those that the weight has at the start.
    mask : (g, D, O) bool array, optional
        True where weights stay.
    on_all : bool
        Whether validation rows are fitted as well, once they have chosen a damping.
    """

    def __init__(
        self,
        views: Sequence[View],
        start: np.ndarray,
        biases: Sequence[np.ndarray],
        backend: Backend,
        mask: npt.NDArray[np.bool_] | None,
        *,
        on_all: bool,
    ) -> None:
        self._on_all = on_all or not all(0 < view.fit < view.x.shape[1] for view in views)
        self._views, self._backend, self._mask = views, backend, mask
        self._start = backend.to_device(start)
        self._moments: list[Moments] | None = None
        self._before = [
            None if view.plain else self._linear(view, start, biases[view.bias]) for view in views
        ]

    @property
    def _is_wide(self) -> bool:
        """Whether there are fewer rows than columns, so that the dual form is the smaller one.

        Within a mask every output has columns of its own: there, moments serve all.
        """
        rows = sum(view.x[:, self._fitted(view), :].shape[1] for view in self._views)
        return rows < self._start.shape[1] and self._mask is None

    @property
    def is_slow(self) -> bool:
        """Whether each solve takes long, with a system for every output."""
        return self._mask is not None and float((self._mask.sum(axis=1) ** 3.0).sum()) > SLOW

    def predict(self, w: np.ndarray, biases: Sequence[np.ndarray]) -> list[Rows]:
        """Return of every use what stands behind it, (g, n, O)."""
        return [self._behind(view, w, biases[view.bias]) for view in self._views]

    def choose(self) -> float:
        """Return the damping that does best on the validation rows."""
        if not all(0 < view.fit < view.x.shape[1] for view in self._views):
            return DAMPINGS[len(DAMPINGS) // 2]
        some, to_device = self._validated(), self._backend.to_device
        ys = [to_device(y[..., some]) for y in self._targets([v.clip.wanted for v in self._views])]
        split = [(slice(0, v.fit), slice(v.fit, None)) for v in self._views]
        fit, held_out = (
            [
                (view.x[:, parts[side], :], y[:, parts[side], :])
                for view, y, parts in zip(self._views, ys, split, strict=True)
            ]
            for side in (0, 1)
        )
        start = self._start[..., some]
        test = [moments_of(*rows) for rows in held_out] if not self._is_wide else []
        train = [moments_of(*rows) for rows in fit] if test else []
        if self._on_all:
            self._moments = [a.merge(b) for a, b in zip(train, test, strict=True)] or None
        else:
            self._moments = train or None

        def error(damping: float) -> float:
            if test:
                w, biases = self._primal(train, start, damping, some)
                held = enumerate(self._by_bias(test))
                return sum(part.count * residual(part, w, biases[k]) for k, part in held)
            w, biases = self._dual(fit, start, damping)
            return sum(
                view.importance * float(np.square(self._miss(view, rows, w, biases)).sum())
                for view, rows in zip(self._views, held_out, strict=True)
            )

        return weakest_that_helps(DAMPINGS, error)

    def solve(self, wanted: Sequence[Rows], damping: float) -> tuple[np.ndarray, list[np.ndarray]]:
        """Fit to what is wanted behind; return the weight, and (g, 1, O) biases."""
        ys = [self._backend.to_device(y) for y in self._targets(wanted)]
        rows = [
            (view.x[:, self._fitted(view), :], y[:, self._fitted(view), :])
            for view, y in zip(self._views, ys, strict=True)
        ]
        if self._is_wide:
            w, biases = self._dual(rows, self._start, damping)
        else:
            known = self._moments
            self._moments = (
                [moments_of(*each) for each in rows]
                if known is None
                else [m.retargeted(*each) for m, each in zip(known, rows, strict=True)]
            )
            w, biases = self._primal(self._moments, self._start, damping, slice(None))
        to_host = self._backend.to_host
        return to_host(w), [to_host(b)[:, None, :] for b in biases]

    def _fitted(self, view: View) -> slice:
        return slice(None) if self._on_all else slice(0, view.fit)

    def _primal(
        self, moments: Sequence[Moments], start: Any, damping: float, outputs: slice
    ) -> tuple[Any, list[Any]]:
        parts = self._by_bias(moments)
        w, b = self._solver(outputs)(pooled(parts), start, damping)
        return w, [b] if len(parts) == 1 else [_intercept(p.mean_x, p.mean_y, w) for p in parts]

    def _dual(
        self, rows: Sequence[tuple[Any, Any]], start: Any, damping: float
    ) -> tuple[Any, list[Any]]:
        if len(rows) == 1:
            w, b = ridge_rows(*rows[0], start, damping)
            return w, [b]
        weights = [view.importance * x.shape[1] for view, (x, _) in self._with(rows)]
        centres = []
        for k in range(1 + max(view.bias for view in self._views)):
            own = [i for i, view in enumerate(self._views) if view.bias == k]
            total = sum(weights[i] for i in own)
            means = [[centred(side)[0] * (weights[i] / total) for side in rows[i]] for i in own]
            centres.append([sum(side) for side in zip(*means, strict=True)])
        away = [
            [
                (s - c[:, None, :]) * v.importance**0.5
                for s, c in zip(xy, centres[v.bias], strict=True)
            ]
            for v, xy in self._with(rows)
        ]
        x, y = (self._backend.xp.concat(side, axis=1) for side in zip(*away, strict=True))
        w, _ = ridge_rows(x, y, start, damping)
        return w, [_intercept(mean_x, mean_y, w) for mean_x, mean_y in centres]

    def _with(self, rows: Sequence[tuple[Any, Any]]) -> Iterator[tuple[View, tuple[Any, Any]]]:
        return zip(self._views, rows, strict=True)

    def _by_bias(self, moments: Sequence[Moments]) -> list[Moments]:
        """Merge the moments of uses that have one bias."""
        parts: dict[int, list[Moments]] = {}
        for view, each in zip(self._views, moments, strict=True):
            parts.setdefault(view.bias, []).append(each.weighted(view.importance))
        return [reduce(Moments.merge, parts[k]) for k in sorted(parts)]

    def _solver(self, outputs: slice) -> Callable[[Moments, Any, float], tuple[Any, Any]]:
        if self._mask is None:
            return ridge
        return partial(masked_ridge, mask=self._mask[..., outputs])

    def _validated(self) -> slice:
        """Choose outputs to validate a damping on: within a mask each costs a system of its own."""
        outputs = self._start.shape[-1]
        return slice(None, None, 1 if self._mask is None else -(-outputs // VALIDATED))

    def _targets(self, wanted: Sequence[Rows]) -> list[Rows]:
        each = zip(self._views, wanted, self._before, strict=True)
        return [view.target(z, before) for view, z, before in each]

    def _linear(self, view: View, w: np.ndarray, b: np.ndarray) -> Rows:
        to_device = self._backend.to_device
        y = view.x @ to_device(w.astype(np.float32)) + to_device(b.astype(np.float32))
        result: Rows = self._backend.to_host(y)
        return result

    def _behind(self, view: View, w: np.ndarray, b: np.ndarray) -> Rows:
        if not view.plain:
            w, b = w * view.ratio, b * view.ratio + view.shift
        y = self._linear(view, w, b)
        return y if view.addend is None else y + view.addend

    def _miss(self, view: View, rows: tuple[Any, Any], w: Any, biases: Sequence[Any]) -> np.ndarray:
        x, y = rows
        miss: np.ndarray = self._backend.to_host(x @ w + biases[view.bias][..., None, :] - y)
        return miss


def _intercept(mean_x: Any, mean_y: Any, w: Any) -> Any:
    return mean_y - (mean_x[..., None, :] @ w)[..., 0, :]
