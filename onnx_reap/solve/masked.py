"""Refit a linear map some of whose weights have to stay zero.

    minimise over the weights W[S_o, o] that stay and b:   mean |Y - X W - b|^2 + l |W - W_0|^2

Each output o has a set S_o of inputs of its own, so each has a system of its own [1]_,

    W[S, o] = W_0[S, o] + (G[S, S] + l I)^-1 (H[S, o] - G[S, S] W_0[S, o]),

with the second moments G and H of `onnx_reap.solve.ridge`. Outputs with the same set share one, and
systems of the same size are solved in one call.

References
----------
.. [1] E. Frantar, D. Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training
       Quantization and Pruning", NeurIPS 2022.
"""

import math
from collections.abc import Iterator

import array_api_compat as compat
import numpy as np
import numpy.typing as npt

from onnx_reap.solve.backend import Array, on_device
from onnx_reap.solve.chunks import in_chunks
from onnx_reap.solve.linalg import mean_diagonal
from onnx_reap.solve.moments import Moments

LOT_NUMBERS = 2**23
"""Numbers in the systems that are solved in one call."""

Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def masked_ridge(
    moments: Moments, weight: Array, damping: float, mask: Mask
) -> tuple[Array, Array]:
    """Refit from moments, within a mask.

    Parameters
    ----------
    moments : Moments
        Of inputs (..., D) and targets (..., O); each leading index is a problem of its own.
    weight : array, shape (..., D, O), float32 or float64
        The current weight W_0; what the mask zeroes is taken as zero.
    damping : float
        As for `ridge`, relative to the mean diagonal of the whole Gram matrix.
    mask : (..., D, O) bool array of NumPy
        True where weights stay.

    Returns
    -------
    weight, bias
        As from `ridge`; the weight is zero wherever the mask says so.
    """
    H = moments.cross
    xp = compat.array_namespace(H, weight)
    W = xp.where(on_device(mask, H), xp.astype(weight, H.dtype), xp.zeros_like(H))
    if math.isfinite(damping):
        G = moments.gram
        strength = damping * mean_diagonal(G)
        each = [xp.reshape(x, (-1, *x.shape[-2:])) for x in (G, H, W)]
        each += [xp.reshape(strength, (-1,)), mask.reshape(-1, *mask.shape[-2:])]
        solved = [_solve(*(x[i, ...] for x in each)) for i in range(each[-1].shape[0])]
        W = xp.reshape(xp.stack(solved), H.shape)
    return W, moments.mean_y - (moments.mean_x[..., None, :] @ W)[..., 0, :]


def _solve(G: Array, H: Array, W: Array, strength: Array, mask: Mask) -> Array:
    """Solve one problem: (D, D), (D, O), (D, O), () and (D, O)."""
    xp = compat.array_namespace(G)
    D, outputs = H.shape
    pieces, where = [xp.reshape(xp.zeros_like(G[0, 0]), (1,))], np.zeros(D * outputs, np.int64)
    at = 1
    for inputs, results in _systems(mask):
        own = inputs[:, :, None] * outputs + results[:, None, :]  # (B, k, r)
        A = _taken(G, inputs[:, :, None] * D + inputs[:, None, :])
        start = _taken(W, own)
        identity = strength * xp.eye(A.shape[-1], dtype=A.dtype, device=compat.device(A))
        new = start + xp.linalg.solve(A + identity, _taken(H, own) - A @ start)
        pieces.append(xp.reshape(new, (-1,)))
        where[own.ravel()] = np.arange(at, at + own.size)
        at += own.size
    return xp.reshape(xp.take(xp.concat(pieces), on_device(where, G), axis=0), (D, outputs))


def _taken(x: Array, at: Indices) -> Array:
    """Gather entries of a matrix by flat indices of any shape."""
    xp = compat.array_namespace(x)
    picked = xp.take(xp.reshape(x, (-1,)), on_device(at.ravel(), x), axis=0)
    return xp.reshape(picked, at.shape)


def _systems(mask: Mask) -> Iterator[tuple[Indices, Indices]]:
    """Yield lots of systems of equal size: inputs (B, k) and outputs (B, r) of each."""
    patterns, of = np.unique(np.packbits(mask, axis=0), axis=1, return_inverse=True)
    outputs = np.split(np.argsort(of.ravel(), kind="stable"), np.cumsum(np.bincount(of.ravel())))
    sizes: dict[tuple[int, int], list[tuple[Indices, Indices]]] = {}
    for own in outputs[: patterns.shape[1]]:
        inputs = np.flatnonzero(mask[:, own[0]])
        if len(inputs):
            sizes.setdefault((len(inputs), len(own)), []).append((inputs, own))
    for (k, r), systems in sizes.items():
        for lot in in_chunks(systems, lambda _, size=k * (k + r): size, LOT_NUMBERS):  # type: ignore[misc]
            yield tuple(np.stack(side) for side in zip(*lot, strict=True))  # type: ignore[misc]
