"""Refit a linear map by least squares, damped towards the weights that it has.

    minimise over W and b:   mean |Y - X W - b|^2 + l |W - W_0|^2,   l = damping * mean(diag G)

With the centred second moments G of X and H of X and Y, the solution is

    W = W_0 + (G + l I)^-1 (H - G W_0),    b = mean(Y) - mean(X) W,

and with fewer rows than columns (X^T X + c I)^-1 X^T = X^T (X X^T + c I)^-1 leaves a system only
as large as the rows are many. Since W_0 itself is a candidate (with the best b), the refit never
raises the error on its own samples. Ridge regression is due to [1]_; its dual form, to [2]_.

References
----------
.. [1] A. E. Hoerl, R. W. Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
       Technometrics 12(1), 1970.
.. [2] C. Saunders, A. Gammerman, V. Vovk, "Ridge Regression Learning Algorithm in Dual Variables",
       ICML 1998.
"""

import math
from collections.abc import Callable, Sequence

import array_api_compat as compat

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import Array, to_host
from onnx_reap.solve.linalg import damped
from onnx_reap.solve.moments import Moments, centred


def ridge(moments: Moments, weight: Array, damping: float) -> tuple[Array, Array]:
    """Refit from moments.

    Parameters
    ----------
    moments : Moments
        Of inputs (..., D) and targets (..., O); each leading index is a problem of its own.
    weight : array, shape (..., D, O), float32 or float64
        The current weight W_0.
    damping : float
        Strength relative to the mean diagonal of each Gram matrix, at least 1e-9. Infinity keeps
        the weight and re-centres the bias.

    Returns
    -------
    weight : array, shape (..., D, O), float64
    bias : array, shape (..., O), float64
    """
    W = _as_weight(moments, weight)
    if math.isfinite(damping):
        xp = compat.array_namespace(W)
        G = moments.gram
        W = W + xp.linalg.solve(damped(G, damping), moments.cross - G @ W)
    return W, moments.mean_y - _apply(moments.mean_x, W)


def ridge_rows(x: Array, y: Array, weight: Array, damping: float) -> tuple[Array, Array]:
    """Refit from rows in the dual form: for fewer rows than columns; forms no (D, D) array.

    Parameters
    ----------
    x : array, shape (..., n, D), float32 or float64
    y : array, shape (..., n, O), float32 or float64
    weight, damping
        As for `ridge`, whose solution this is.

    Raises
    ------
    ReapError
        If there are no rows.
    """
    n, D = x.shape[-2:]
    if n == 0:
        raise ReapError("x has no rows", hint="give calibration samples")
    mean_x, X = centred(x)
    mean_y, Y = centred(y)
    xp = compat.array_namespace(X, Y, weight)
    W = xp.astype(weight, xp.float64)
    if math.isfinite(damping):
        # damped() scales by trace / n; the Gram matrix has the same trace but D columns.
        X_t = xp.matrix_transpose(X)
        K = damped(X @ X_t, damping * n / D)
        W = W + X_t @ xp.linalg.solve(K, Y - X @ W)
    return W, mean_y - _apply(mean_x, W)


def residual(moments: Moments, weight: Array, bias: Array | None = None) -> float:
    """Return the mean squared error of a weight, from the moments.

    Parameters
    ----------
    moments : Moments
        Of inputs (..., D) and targets (..., O).
    weight : array, shape (..., D, O), float32 or float64
    bias : array, shape (..., O), float32 or float64, optional
        The best one for this weight by default.

    Returns
    -------
    float
        Mean over the rows, sum over outputs and leading axes; squared units of the targets.
    """
    W = _as_weight(moments, weight)
    xp = compat.array_namespace(W)
    error = moments.var_y + xp.sum(W * (moments.gram @ W - 2 * moments.cross), axis=-2)
    if bias is not None:
        offset = moments.mean_y - _apply(moments.mean_x, W) - xp.astype(bias, xp.float64)
        error = error + offset * offset
    return max(float(to_host(xp.sum(error))), 0.0)  # a perfect fit may round below zero


def weakest_that_helps(dampings: Sequence[float], error: Callable[[float], float]) -> float:
    """Weaken the damping as long as the error falls.

    From the strongest one on, the error falls until the fit follows its own samples; past that
    point, strengths needn't be tried, and each costs a solve.

    Parameters
    ----------
    dampings : sequence of float
    error : callable
        Of a damping.
    """
    best, *weaker = sorted(dampings, reverse=True)
    least = error(best)
    for damping in weaker:
        if not (now := error(damping)) < least:
            break
        best, least = damping, now
    return best


def _as_weight(moments: Moments, weight: Array) -> Array:
    """Return a weight in the precision of the moments, float64."""
    cross = moments.cross
    return compat.array_namespace(cross, weight).astype(weight, cross.dtype)


def _apply(mean: Array, W: Array) -> Array:
    """Map mean inputs (..., D) to mean outputs (..., O)."""
    return (mean[..., None, :] @ W)[..., 0, :]
