"""How the gradient passes through one operator."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape

Write = Callable[[Tape, onnx.NodeProto, str, int], str]
Fits = Callable[[onnx.NodeProto, Constants, Shapes], bool]


@dataclass(frozen=True)
class Gradient:
    """How to write the gradient at an operator's inputs from that at its output."""

    write: Write
    # Inputs whose gradient can be written; None for all
    places: frozenset[int] | None = frozenset({0})
    constant: tuple[int, ...] = ()  # Inputs that must be constants of the part
    # Whether a node is covered, from it, the part's constants and the shapes of tensors
    fits: Fits | None = None
    # Whether the node has several results of one input: `write` is then given the place of the
    # result that the gradient is at
    splits: bool = False
    # Whether it needs to know the layer, that is, only covers nodes which are one
    layer: bool = False

    def covers(self, place: int) -> bool:
        """Whether the gradient at this input can be written."""
        return self.places is None or place in self.places


EVERY = None
"""For `places`: all inputs."""
