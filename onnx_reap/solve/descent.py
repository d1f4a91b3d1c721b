"""Descent along a gradient, at the same relative speed in every tensor."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnx_reap.solve.adam import Adam
from onnx_reap.solve.muon import Muon

Array = npt.NDArray[np.float32]

LARGEST = 1e18  # gradient whose square is still a float32
RISING = 0.2  # fraction of the steps in which they grow; then they shrink to nothing


ForAll = Callable[[Callable[[str], None], Iterable[str]], None]
"""Calls a function with each of some names, in any order or several at a time."""


def _one_by_one(work: Callable[[str], None], names: Iterable[str]) -> None:
    for name in names:
        work(name)


class Rule(Protocol):
    """Turns the gradients of one tensor into steps."""

    def step(self, gradient: Array) -> Array:
        """Return what to subtract; both are relative to the tensor's scale."""
        ...


class Descent:
    """Steps relative to each tensor's scale, on a schedule that ends at zero.

    Parameters
    ----------
    scales : mapping of str to float or array
        What a step of 1 would be: of a tensor, or of each of its entries, to broadcast.
    steps : int
        In all.
    speed : float
        Of the largest step.
    matrices : mapping of str to int, optional
        Tensors that consist of matrices, and of how many along the first axis: these take the steps
        of `Muon`, all others those of `Adam`.
    for_all : ForAll, optional
        Used where steps take long; one by one by default.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        scales: Mapping[str, float | np.ndarray],
        steps: int,
        speed: float,
        matrices: Mapping[str, int] | None = None,
        for_all: ForAll = _one_by_one,
    ) -> None:
        self.values: dict[str, Array] = {name: array.copy() for name, array in values.items()}
        self._scales = {name: np.asarray(scale, np.float32) for name, scale in scales.items()}
        counts = matrices or {}
        self._rules: dict[str, Rule] = {
            name: Muon(x.shape, counts[name]) if name in counts else Adam(x.shape)
            for name, x in values.items()
        }
        self._steps, self._speed, self._done = steps, speed, 0
        # Steps of matrices take long, those of single entries less than handing them over would.
        self._long = sorted(counts, key=lambda name: -values[name].size)
        self._for_all = for_all

    def step(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Take one step; none if a gradient is not finite."""
        speed = self._speed * _schedule((self._done + 0.5) / self._steps)
        self._done += 1
        with np.errstate(over="ignore", invalid="ignore"):
            relative = {name: each * self._scales[name] for name, each in gradients.items()}
        if not all(np.abs(each).max(initial=0) < LARGEST for each in relative.values()):
            return  # of a sample at which the error has no gradient

        def move(name: str) -> None:
            with np.errstate(over="ignore", invalid="ignore"):  # threads have a state of their own
                step = self._rules[name].step(relative[name])
                self.values[name] -= np.float32(speed) * self._scales[name] * step

        self._for_all(move, self._long)
        _one_by_one(move, self._rules.keys() - self._long)


def _schedule(share: float) -> float:
    """Return the size of a step, of the largest one's, at a share of all steps."""
    if share < RISING:
        return share / RISING
    return 0.5 * (1 + math.cos(math.pi * (share - RISING) / (1 - RISING)))
