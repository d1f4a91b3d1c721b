"""Descent along a gradient, at the same relative speed in every tensor.

References
----------
D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]

FIRST, SECOND = 0.9, 0.99  # how much of the gradient's mean, and of its square's, is remembered
LARGEST = 1e18  # gradient whose square is still a float32
RISING = 0.2  # fraction of the steps in which they grow; then they shrink to nothing


class Descent:
    """Adam, its steps relative to each tensor's scale, on a schedule that ends at zero.

    Parameters
    ----------
    scales : mapping of str to float or array
        What a step of 1 would be: of a tensor, or of each of its entries, to broadcast.
    steps : int
        In all.
    speed : float
        Of the largest step.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        scales: Mapping[str, float | np.ndarray],
        steps: int,
        speed: float,
    ) -> None:
        self.values: Arrays = {name: array.copy() for name, array in values.items()}
        self._mean: Arrays = {name: np.zeros_like(array) for name, array in values.items()}
        self._square: Arrays = {name: np.zeros_like(array) for name, array in values.items()}
        self._scales, self._steps, self._speed = scales, steps, speed
        self._done = 0

    def step(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Take one step; none if a gradient is not finite."""
        speed = self._speed * _schedule((self._done + 0.5) / self._steps)
        self._done += 1
        if not all(np.abs(each).max(initial=0) < LARGEST for each in gradients.values()):
            return  # of a sample at which the error has no gradient
        for name, gradient in gradients.items():
            mean, square = self._mean[name], self._square[name]
            mean += (1 - FIRST) * (gradient - mean)
            square += (1 - SECOND) * (gradient * gradient - square)
            size = np.sqrt(square / (1 - SECOND**self._done))
            # Squares of gradients below 1e-23 vanish: what hardly matters stays.
            move = np.divide(mean, size, out=np.zeros_like(mean), where=size > 0)
            move /= 1 - FIRST**self._done
            self.values[name] -= np.asarray(speed * self._scales[name], np.float32) * move


def _schedule(share: float) -> float:
    """Return the size of a step, of the largest one's, at a share of all steps."""
    if share < RISING:
        return share / RISING
    return 0.5 * (1 + math.cos(math.pi * (share - RISING) / (1 - RISING)))
