"""Dense kernels on symmetric positive definite matrices that the array-API standard lacks.

With the Cholesky factor A = C C^T and T = C^-1, the inverse is T^T T: symmetric, with a positive
diagonal whatever the rounding, and cheaper than a general inverse. T comes from recursion on

    [C11   0 ]^-1   [       T11           0 ]
    [C21  C22]    = [-T22 C21 T11       T22 ]

so that nearly all operations are matrix products.

References
----------
.. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM 2002, ch. 14.
"""

from __future__ import annotations

import array_api_compat as compat

from onnx_reap.solve.backend import Array

_LEAF = 64
"""Below this size a general inverse costs less than the recursion."""


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
    damping : float
        Relative strength, without unit.

    Returns
    -------
    array, shape (..., D, D), float64
    """
    xp = compat.array_namespace(A)
    identity = xp.eye(A.shape[-1], dtype=A.dtype, device=compat.device(A))
    return A + (damping * mean_diagonal(A))[..., None, None] * identity


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
        If `A` is not positive definite (CuPy gives NaN instead).
    """
    xp = compat.array_namespace(A)
    T = _triangular_inverse(xp.linalg.cholesky(A))
    return T.T @ T


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
