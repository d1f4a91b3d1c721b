"""Steps of matrices, equally far in all directions.

A layer's inputs are correlated, so most of its gradient lies along a few directions. Adam, which
looks at entries, follows these alone for long. Here the gradient's singular values are made equal.

References
----------
K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. They
approximate this by Newton-Schulz iterations. Eigenvectors of the Gram matrix are exact and, for
matrices as small as those of convolutions, faster.
"""

import math

import numpy as np
import numpy.typing as npt

MOMENTUM = 0.9  # how much of the gradient's mean is remembered
SIZE = 0.3  # root mean square of a step's entries: about that of Adam's where gradients are noisy
LEAST = 1e-7  # eigenvalues below this, relative to the largest, are rounding

Array = npt.NDArray[np.float32]


class Muon:
    """Steps of one tensor.

    Parameters
    ----------
    shape : tuple of int
    count : int
        Of matrices that it consists of, along the first axis.
    """

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self._mean, self._count = np.zeros(shape, np.float32), count

    def step(self, gradient: Array) -> Array:
        """Return what to subtract."""
        self._mean += (1 - MOMENTUM) * (gradient - self._mean)
        ahead = gradient + np.float32(MOMENTUM) * (self._mean - gradient)
        found = orthogonal(ahead.reshape(self._count, len(ahead) // self._count, -1))
        return (SIZE * math.sqrt(max(found.shape[1:])) * found).reshape(gradient.shape)


def orthogonal(matrices: Array) -> Array:
    """Set the singular values of (g, m, n) matrices to one; those that are next to none stay so."""
    x = matrices / np.maximum(np.abs(matrices).max(axis=(1, 2), keepdims=True), np.float32(1e-30))
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.swapaxes(1, 2)).swapaxes(1, 2)
    values, basis = np.linalg.eigh(x @ x.swapaxes(1, 2))
    least = np.maximum(LEAST * values[:, -1:], np.finfo(np.float32).tiny)
    turned = basis.swapaxes(1, 2) @ x
    result: Array = basis @ (turned / np.sqrt(np.maximum(values, least))[:, :, None])
    return result
