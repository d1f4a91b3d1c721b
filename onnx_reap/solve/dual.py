"""The dual basis of a consumer's input columns: P = (G + l I)^-1, in the order of the units."""

import array_api_compat as compat
import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import Array, on_device
from onnx_reap.solve.linalg import mean_diagonal, spd_inverse


def dual(gram: Array, weight: Array, columns: np.ndarray, damping: float) -> tuple[Array, Array]:
    """Damp, invert and bring into the units' order.

    A missing tap becomes a dead column of its own: no variance, no weight, no effect. The weights
    of all dead columns are dropped, so that damping puts no price on them.

    Parameters
    ----------
    weight : array, shape (D, O)
    columns : ndarray, shape (S, B), int
        Columns of each unit; -1 where it has fewer than B.

    Returns
    -------
    P : array, shape (S * B, S * B), float64
    W : array, shape (S * B, O), float64

    Raises
    ------
    ReapError
        If the Gram matrix is not positive semidefinite.
    """
    xp = compat.array_namespace(gram)
    D, n = gram.shape[0], columns.size
    picked = np.where(columns < 0, D, columns).ravel()
    fixed = np.setdiff1d(np.arange(D), picked)
    index = on_device(np.concatenate([picked, fixed]), like=gram)
    scale = mean_diagonal(gram)

    G = xp.take(xp.take(_with_zeros(gram, axes=(0, 1)), index, axis=0), index, axis=1)
    dead = xp.linalg.diagonal(G)[:n] <= xp.finfo(G.dtype).eps * scale
    ridge = damping * scale * xp.eye(index.shape[0], dtype=G.dtype, device=compat.device(G))
    try:
        P = spd_inverse(G + ridge)[:n, :n]
    except np.linalg.LinAlgError as error:
        raise ReapError("a Gram matrix is not positive semidefinite") from error

    W = xp.take(_with_zeros(weight, axes=(0,)), index[:n], axis=0)
    return P, xp.where(dead[:, None], 0.0, W)


def _with_zeros(x: Array, axes: tuple[int, ...]) -> Array:
    """Append one slice of zeros along each of these axes."""
    xp = compat.array_namespace(x)
    shape = tuple(size + (axis in axes) for axis, size in enumerate(x.shape))
    out = xp.zeros(shape, dtype=xp.float64, device=compat.device(x))
    out[tuple(slice(size) for size in x.shape)] = x
    return out
