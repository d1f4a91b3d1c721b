"""How the gradient passes through one operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape

Write = Callable[[Tape, onnx.NodeProto, str, int], str]
Fits = Callable[[onnx.NodeProto, Constants, Shapes], bool]


@dataclass(frozen=True)
class Gradient:
    """How to write the gradient at an operator's inputs from that at its output.

    Attributes
    ----------
    write : callable
    places : frozenset of int, optional
        Inputs whose gradient can be written; None for all.
    constant : tuple of int
        Inputs that must be constants of the part.
    fits : callable, optional
        Whether a node is covered, from it, the part's constants and the shapes of tensors.
    splits : bool
        Whether the node has several results of one input: `write` is then given the place of the
        result that the gradient is at.
    layer : bool
        Whether it needs to know the layer, that is, only covers nodes which are one.
    """

    write: Write
    places: frozenset[int] | None = frozenset({0})
    constant: tuple[int, ...] = ()
    fits: Fits | None = None
    splits: bool = False
    layer: bool = False

    def covers(self, place: int) -> bool:
        """Whether the gradient at this input can be written."""
        return self.places is None or place in self.places


EVERY = None
"""For `places`: all inputs."""
