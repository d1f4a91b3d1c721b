"""Masks that reckon with the repair: what goes is what least squares misses least.

With P = (G + l I)^-1, the error left after removing inputs S from an output, all others refitted,
is w_S^T (P_SS)^-1 w_S. Tiles of a row of tiles go one after the other, the cheapest first,
while P and the weights follow: the removal path of REAP [1]_, with a row of tiles for a layer. Of
2:4, every four decides by w_j^2 / P_jj once the fours in front of it are done, for all outputs at
once, so that one factorisation of P serves them all [2]_.

References
----------
.. [1] K. Kamma, T. Wada, "REAP: A Method for Pruning Convolutional Neural Networks with Performance
       Preservation", IEICE Trans. Inf. & Syst. E104-D(1), 2021.
.. [2] E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
       One-Shot", ICML 2023.
"""

import array_api_compat as compat
import numpy as np

from onnx_reap.solve.backend import Array, on_device, to_host
from onnx_reap.solve.dual import dual
from onnx_reap.solve.elimination import Elimination
from onnx_reap.solve.linalg import damped, spd_inverse
from onnx_reap.solve.patterns import Mask, Pattern, Tiles

DAMPING = 1e-2
MOST = 3e10
"""Multiplications for a layer's tiles; those of larger layers stay as their scores have them."""


def choose(pattern: Pattern, gram: Array, weight: Array, mask: Mask, taps: int) -> Mask:
    """Choose which weights of a layer stay.

    Parameters
    ----------
    gram : array, shape (g, D, D), float64
        Centred second moments of what the layer receives now.
    weight : array, shape (g, D, O), float64
        Before anything was zeroed, each output scaled by how much it matters.
    mask : (g, D, O) bool array of NumPy
        In the pattern; as many tiles of every row of tiles stay as here.
    taps : int
        Kernel positions; column c * taps + t is channel c at position t.

    Returns
    -------
    (g, D, O) bool array of NumPy
        In the pattern.
    """
    maps = range(mask.shape[0])
    if not isinstance(pattern, Tiles):
        return np.stack([_fours(gram[g, ...], weight[g, ...], taps) for g in maps])
    if takes_long(pattern, mask):
        return mask
    return np.stack([_tiles(pattern, gram[g, ...], weight[g, ...], mask[g], taps) for g in maps])


def takes_long(pattern: Pattern, mask: Mask) -> bool:
    """Whether a layer's mask stays as it is, since choosing its tiles would take too long."""
    if not isinstance(pattern, Tiles):
        return False
    gone = (~mask[:, :, :: pattern.rows]).sum(axis=1).astype(float)
    return float((gone**2).sum() * mask.shape[1]) > MOST  # a removal reads all before it


def _tiles(tiles: Tiles, gram: Array, weight: Array, mask: Mask, taps: int) -> Mask:
    """Choose again for every row of tiles, of a (D, O) weight, as many tiles as the mask keeps."""
    columns = _columns(tiles, mask.shape[0], taps)
    P, _ = dual(gram, weight[:, :1], columns, DAMPING)
    xp = compat.array_namespace(P)
    padded = xp.concat([weight, xp.zeros_like(weight[:1, :])])
    # A column of -1 becomes the last one, which is all zeros.
    rows = xp.take(padded, on_device(columns.ravel() % (mask.shape[0] + 1), P), axis=0)
    chosen = mask.copy()
    for at in range(0, mask.shape[1], tiles.rows):
        gone = int((~mask[columns[:, 0], at]).sum())
        if gone == 0:
            continue
        part = slice(at, min(at + tiles.rows, mask.shape[1]))
        path = _path(Elimination(xp.asarray(P, copy=True), rows[:, part], columns.shape[1]), gone)
        own = columns[path]
        stays = np.ones(mask.shape[0], bool)
        stays[own[own >= 0]] = False
        chosen[:, part] = stays[:, None]
    return chosen


def _columns(tiles: Tiles, width: int, taps: int) -> np.ndarray:
    """Columns of every tile of a row of tiles, (U, columns); -1 where a tile is smaller."""
    channels = width // taps
    wide = min(tiles.columns, channels)
    count = -(-channels // wide)
    channel = np.arange(count * wide).reshape(1, count, wide)
    column = channel * taps + np.arange(taps)[:, None, None]
    return np.where(channel < channels, column, -1).reshape(taps * count, wide)


def _path(elimination: Elimination, steps: int) -> list[int]:
    """Remove the cheapest unit, so many times."""
    scores = elimination.scores()
    xp = compat.array_namespace(scores)
    gone = xp.zeros(scores.shape, dtype=xp.bool, device=compat.device(scores))
    path = []
    for _ in range(steps):
        unit = int(to_host(xp.argmin(xp.where(gone, xp.inf, elimination.scores()))))
        elimination.remove(unit)
        gone[unit] = True
        path.append(unit)
    return path


def _fours(gram: Array, weight: Array, taps: int) -> Mask:
    """Choose two of every four channels, for each output of a (D, O) weight, from the first on."""
    xp = compat.array_namespace(gram, weight)
    width, outputs = weight.shape
    fours = np.arange(width).reshape(-1, 4, taps).swapaxes(1, 2).ravel()
    order = on_device(fours, gram)
    G, W = xp.take(xp.take(gram, order, axis=0), order, axis=1), xp.take(weight, order, axis=0)
    # Row i of the upper factor says how later columns make up for column i.
    U = xp.matrix_transpose(xp.linalg.cholesky(spd_inverse(damped(G, DAMPING))))
    pivots = xp.linalg.diagonal(U)
    kept = np.empty((width, outputs), bool)
    for at in range(0, width, 4):
        four = slice(at, at + 4)
        rank = xp.argsort(xp.argsort(-((W[four, :] / pivots[four, None]) ** 2), axis=0), axis=0)
        stays = rank < 2
        for i in range(4):
            lost = xp.where(stays[i, :], 0.0, W[at + i, :]) / pivots[at + i]
            W[at + i :, :] -= U[at + i, at + i :][:, None] * lost[None, :]
        kept[four] = to_host(stays)
    mask = np.empty_like(kept)
    mask[fours] = kept
    return mask
