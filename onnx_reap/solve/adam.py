"""Steps by entry, each relative to what the gradient mostly is there.

References
----------
D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
"""

import numpy as np
import numpy.typing as npt

FIRST, SECOND = 0.9, 0.99  # how much of the gradient's mean, and of its square's, is remembered

Array = npt.NDArray[np.float32]


class Adam:
    """Steps of one tensor."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._mean, self._square = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._done = 0

    def step(self, gradient: Array) -> Array:
        """Return what to subtract, entries of about 1 where the gradient keeps its sign."""
        self._done += 1
        self._mean += (1 - FIRST) * (gradient - self._mean)
        self._square += (1 - SECOND) * (gradient * gradient - self._square)
        size = np.sqrt(self._square / (1 - SECOND**self._done))
        # Squares of gradients below 1e-23 vanish: what hardly matters stays.
        step: Array = np.divide(self._mean, size, out=np.zeros_like(size), where=size > 0)
        step /= 1 - FIRST**self._done
        return step
