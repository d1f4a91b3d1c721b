"""Dense kernels on symmetric positive definite matrices that the array-API standard lacks.

With the Cholesky factor A = C C^T and T = C^-1, the inverse is T^T T: symmetric, with a positive
diagonal whatever the rounding, and cheaper than a general inverse. Both steps halve the matrix,

    [C11   0 ]^-1   [       T11          0 ]           [T11^T T11 + T21^T T21   T21^T T22]
    [C21  C22]    = [-T22 C21 T11      T22 ],  T^T T = [T22^T T21               T22^T T22],

until nearly all operations are matrix products that skip the zeros.

References
----------
.. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM 2002, ch. 14.
"""

import array_api_compat as compat
import numpy as np

from onnx_reap.solve.backend import Array, to_host

_LEAF = 128
"""Up to this size, halving costs more than multiplying by zeros."""


_TIED = 1e-6
"""Relative difference of entries that are the same but for rounding."""


def mean_diagonal(A: Array) -> Array:
    """Return the mean diagonal of (..., D, D) matrices, or 1 where it is zero: a scale to damp by.

    Parameters
    ----------
    A : array, shape (..., D, D)

    Returns
    -------
    array, shape (...)
        Positive.
    """
    xp = compat.array_namespace(A)
    scale = xp.mean(xp.linalg.diagonal(A), axis=-1)
    return xp.where(scale > 0, scale, xp.ones_like(scale))


def damped(A: Array, damping: float) -> Array:
    """Return A plus `damping` times its mean diagonal times the identity.

    Parameters
    ----------
    A : array, shape (..., D, D), float64

    Returns
    -------
    array, shape (..., D, D), float64
    """
    xp = compat.array_namespace(A)
    identity = xp.eye(A.shape[-1], dtype=A.dtype, device=compat.device(A))
    return A + (damping * mean_diagonal(A))[..., None, None] * identity


def eigenvectors(A: Array, within: Array | None = None) -> tuple[Array, Array]:
    """Return eigenvalues and eigenvectors of a symmetric matrix, the largest first.

    An eigenvector's sign is a matter of the library: here its largest entry in magnitude is
    positive, the first of several.

    Parameters
    ----------
    A : array, shape (D, D), float64
    within : array, shape (D, K), float64, optional
        Orthonormal columns: eigenvectors are sought in their span only.

    Returns
    -------
    values : array, shape (K,), float64
        Descending; K is D without `within`.
    vectors : array, shape (D, K), float64
        Orthonormal columns.
    """
    xp = compat.array_namespace(A)
    if within is None:
        values, vectors = xp.linalg.eigh(A)
    else:
        values, vectors = xp.linalg.eigh(xp.matrix_transpose(within) @ (A @ within))
        vectors = within @ vectors
    values, vectors = xp.flip(values), xp.flip(vectors, axis=1)
    sizes = xp.abs(vectors)
    largest = sizes >= (1 - _TIED) * xp.max(sizes, axis=0)
    first = xp.argmax(xp.astype(largest, xp.int64), axis=0)
    rows = xp.arange(A.shape[0], device=compat.device(A))[:, None]
    entries = xp.sum(xp.where(rows == first, vectors, xp.zeros_like(vectors)), axis=0)
    return values, xp.where(entries < 0, -vectors, vectors)


def spd_inverse(A: Array) -> Array:
    """Invert a symmetric positive definite matrix.

    Parameters
    ----------
    A : array, shape (D, D), float64

    Returns
    -------
    array, shape (D, D), float64
        Symmetric, with a positive diagonal.

    Raises
    ------
    numpy.linalg.LinAlgError
        If `A` is not positive definite.
    """
    xp = compat.array_namespace(A)
    C = xp.linalg.cholesky(A)
    if not to_host(xp.all(xp.isfinite(xp.linalg.diagonal(C)))):  # CuPy doesn't raise
        raise np.linalg.LinAlgError("Matrix is not positive definite")
    return _triangular_gram(_triangular_inverse(C))


def _triangular_inverse(C: Array) -> Array:
    """Invert a lower triangular (D, D) matrix."""
    xp = compat.array_namespace(C)
    if C.shape[0] <= _LEAF:
        return xp.linalg.inv(C)
    h = C.shape[0] // 2
    T = xp.zeros_like(C)
    T[:h, :h] = _triangular_inverse(C[:h, :h])
    T[h:, h:] = _triangular_inverse(C[h:, h:])
    T[h:, :h] = -T[h:, h:] @ (C[h:, :h] @ T[:h, :h])
    return T


def _triangular_gram(T: Array) -> Array:
    """Return T^T T for a lower triangular (D, D) matrix."""
    if T.shape[0] <= _LEAF:
        return T.T @ T
    xp = compat.array_namespace(T)
    h = T.shape[0] // 2
    T21, T22 = T[h:, :h], T[h:, h:]
    P = xp.empty_like(T)
    P[:h, :h] = _triangular_gram(T[:h, :h]) + T21.T @ T21
    P[h:, :h] = T22.T @ T21
    P[:h, h:] = P[h:, :h].T
    P[h:, h:] = _triangular_gram(T22)
    return P
