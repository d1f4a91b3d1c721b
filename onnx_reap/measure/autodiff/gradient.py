"""How the gradient passes through one operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx

from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape, Value, attributes

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A node that the gradient passes, from one of its results to one of its inputs."""

    tape: Tape
    node: onnx.NodeProto
    dy: Value  # The gradient at the result
    place: int  # Of the input
    index: int  # Of the result

    @property
    def x(self) -> Value:
        """The node's first input."""
        return self.input(0)

    @property
    def y(self) -> Value:
        """The node's first result."""
        return self.tape.value(self.node.output[0])

    @property
    def rank(self) -> int:
        """Number of axes of the first input."""
        return len(self.x.shape)

    def input(self, place: int) -> Value:
        """Return an input."""
        return self.tape.value(self.node.input[place])

    def get(self, name: str, default: T) -> T:
        """Return an attribute of the node."""
        result: T = attributes(self.node).get(name, default)
        return result

    def folded(self, gradient: Value, *, matrices: bool = False) -> Value:
        """Sum a gradient over the axes along which the input was repeated to give the result.

        The last two axes of matrices are not repeated, whatever their sizes.
        """
        shape, result = self.input(self.place).shape, self.y.shape
        extra = len(result) - len(shape)
        repeated = [
            axis + extra
            for axis, size in enumerate(shape[:-2] if matrices else shape)
            if size == 1 and result[axis + extra] > 1
        ]
        return gradient.sum(repeated, keep=True).sum(range(extra), keep=False)


@dataclass(frozen=True)
class Gradient:
    """How to write the gradient at an operator's inputs from that at its output."""

    write: Callable[[Step], Value]
    # Inputs whose gradient can be written; None for all
    places: frozenset[int] | None = frozenset({0})
    constant: tuple[int, ...] = ()  # Inputs that must be constants of the part
    # Whether a node is covered, from it, the part's constants and the shapes of tensors
    fits: Callable[[onnx.NodeProto, Constants, Shapes], bool] | None = None
    # Whether it needs to know the layer, that is, only covers nodes which are one
    layer: bool = False
    since: int = 0  # First operator set in which all that it writes exists


EVERY = None
"""For `places`: all inputs."""


def share_of_extremes(x: Value, y: Value, dy: Value, axes: Sequence[int]) -> Value:
    """Let entries share a gradient that are as large as the largest along axes."""
    mask = x.op("Equal", y).floats()
    return mask * (dy / mask.sum(axes, keep=True))
