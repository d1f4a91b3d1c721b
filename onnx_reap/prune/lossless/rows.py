"""Rows that are multiples or combinations of others, to float tolerance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

SAME = 1e-6
"""Relative distance at which rows count as equal: a few roundings of float32 (6e-8 each)."""

ZERO = 2.0**-24
"""Of the largest row's norm: what is smaller is lost when float32 adds the two."""

DEPENDENT = 1e-11
"""Of a row's square: what a combination may leave of it. Squares resolve 1e-13 in float64."""

MAGNIFIED = 30.0
"""How much larger than a row the terms of its combination may be: rounding grows as they do."""

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
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))


def combinations(gram: Matrix) -> dict[int, dict[int, float]]:
    """Find vectors that are combinations of others, by pivoted elimination on their products.

    These are the pivots that a rank-revealing QR of the vectors takes.

    Parameters
    ----------
    gram : (n, n) float64 array
        Scalar products of the vectors, none of them zero.

    Returns
    -------
    dict of int to dict of int to float
        By vector that can go, the coefficients of those that stay; multiples of one come out as
        such.
    """
    size = np.sqrt(np.diag(gram))
    unit = gram / np.outer(size, size)
    if not _is_singular(unit):
        return {}
    kept = _pivots(unit)
    found: dict[int, dict[int, float]] = {}
    for j in sorted(set(range(len(unit))) - set(kept)):
        multiple = [k for k in kept if 1 - abs(unit[k, j]) <= SAME**2]
        chosen = multiple[:1] or kept
        terms = np.linalg.solve(unit[np.ix_(chosen, chosen)], unit[chosen, j])
        left = 1 - terms @ unit[chosen, j]
        terms = np.where(np.abs(terms) > SAME**2, terms, 0)
        if left <= 2 * DEPENDENT and np.abs(terms).sum() <= MAGNIFIED:
            scaled = zip(chosen, terms * size[j] / size[chosen], strict=True)
            found[j] = {k: _snapped(float(term)) for k, term in scaled if term}
    return found


def _snapped(term: float) -> float:
    return 1.0 if abs(term - 1) <= SAME else term


def _is_singular(unit: Matrix) -> bool:
    """Whether some vector depends on those before it."""
    try:
        diagonal = np.diag(np.linalg.cholesky(unit))
    except np.linalg.LinAlgError:
        return True
    return bool((diagonal**2 <= DEPENDENT).any())


def _pivots(unit: Matrix) -> list[int]:
    """Choose vectors that span all, the one furthest from those before it each time."""
    left, chosen = unit.copy(), list[int]()
    while len(chosen) < len(unit):
        best = int(np.argmax(np.round(np.diag(left), 9)))  # the first of equally far ones
        if left[best, best] <= DEPENDENT:
            break
        chosen.append(best)
        column = left[:, best] / np.sqrt(left[best, best])
        left -= np.outer(column, column)
        left[best, :] = left[:, best] = 0
    return sorted(chosen)
