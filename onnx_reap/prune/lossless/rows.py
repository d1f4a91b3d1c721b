"""Rows that are multiples of others, to float tolerance."""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

SAME = 1e-6
"""Relative distance at which rows count as equal: a few roundings of float32 (6e-8 each)."""

ZERO = 2.0**-24
"""Of the largest row's norm: what is smaller is lost when float32 adds the two."""

_CHUNK = 1024  # rows that are compared with all others at once


def parallel(rows: np.ndarray) -> tuple[np.ndarray, Matrix]:
    """Find rows that are multiples of earlier ones.

    Parameters
    ----------
    rows : (n, D) array of float32 or float64

    Returns
    -------
    like : (n,) int array
        The first row that a row is a multiple of, itself if there is none; -1 for rows of zeros.
    factor : (n,) float64 array
        By which to multiply that row; exactly 1 for equal ones, 0 for rows of zeros.
    """
    norms = norms_of(rows)
    like = np.where(norms > 0, np.arange(len(rows)), -1)
    factor = (norms > 0).astype(np.float64)
    # Projections on a few directions tell which pairs are worth a comparison.
    directions = np.random.default_rng(0).standard_normal((rows.shape[1], 8)).astype(rows.dtype)
    short = (rows @ directions).astype(np.float64)
    length = norms_of(short)
    short /= np.where(length > 0, length, 1)[:, None]
    for start in range(0, len(rows), _CHUNK):
        close = np.abs(short[start : start + _CHUNK] @ short.T) > 1 - 1e-6
        for i, j in np.argwhere(close).tolist():
            i += start
            if j < i and like[i] == i and like[j] == j and norms[i] and norms[j]:
                found = _factor(rows[i], rows[j], norms[j])
                if found is not None:
                    like[i], factor[i] = j, found
    return like, factor


def _factor(row: np.ndarray, other: np.ndarray, norm: float) -> float | None:
    """Return the factor from one row to another, None where there is none."""
    row, other = row.astype(np.float64), other.astype(np.float64)
    factor = float(row @ other) / norm**2
    if abs(factor - 1) <= SAME:
        factor = 1.0
    distance = np.linalg.norm(row - factor * other)
    return factor if distance <= SAME * np.linalg.norm(row) else None


def norms_of(rows: np.ndarray) -> Matrix:
    """Return the Euclidean norms of rows, (n,) float64."""
    result: Matrix = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return result
