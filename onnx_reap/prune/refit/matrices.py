"""The matrices that a weight holds side by side."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Matrices:
    """Of one weight, along its first axis; several in a grouped convolution."""

    name: str  # Of the weight
    count: int
    outputs: int  # Of all together
    rank: int  # Of one, at most


def matrices_of(name: str, weight: np.ndarray, weight_out: int, count: int) -> Matrices:
    """Describe a weight.

    Parameters
    ----------
    weight_out : int
        Axis of the outputs.
    count : int
        Of matrices along the first axis.
    """
    first, rest = len(weight) // count, weight.size // max(len(weight), 1)
    return Matrices(name, count, weight.shape[weight_out], min(first, rest))
