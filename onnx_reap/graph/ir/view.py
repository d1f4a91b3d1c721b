"""A node as rules see it: attributes, shapes, and the values that are the same in every run."""

from collections.abc import Set
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe


class View:
    """One node of a model."""

    def __init__(self, node: gs.Node, model: Model, probe: Probe, of_sizes: Set[str]) -> None:
        self.node = node
        self.key = model.keys[id(node)]  # Its unique name
        self.opset = model.opset  # Version of the standard operators
        self.probe = probe
        self._of_sizes = of_sizes

    @property
    def op(self) -> str:
        """The operator."""
        return str(self.node.op)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or `default` where the node leaves it out."""
        return self.node.attrs.get(name, default)

    def inputs(self) -> list[int]:
        """Return the indices of the inputs that are there."""
        return [index for index, tensor in enumerate(self.node.inputs) if tensor.name]

    def has_input(self, index: int) -> bool:
        """Whether an (optional) input is there."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def has_output(self, index: int) -> bool:
        """Whether an (optional) output is there."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def name(self, index: int = 0) -> str:
        """Name of an input tensor."""
        return str(self.node.inputs[index].name)

    def output_name(self, index: int = 0) -> str:
        """Name of an output tensor."""
        return str(self.node.outputs[index].name)

    def is_constant(self, index: int) -> bool:
        """Whether an input is a constant."""
        return self.has_input(index) and isinstance(self.node.inputs[index], gs.Constant)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input in the probe."""
        return self.probe.shapes[self.name(index)]

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an output in the probe."""
        return self.probe.shapes[self.output_name(index)]

    def value(self, index: int) -> np.ndarray | None:
        """Value of an input, if it is a constant or follows from sizes; else None.

        What follows from sizes is given for the sizes of the probe.
        """
        if self.is_constant(index):
            return np.asarray(self.node.inputs[index].values)
        known = self.has_input(index) and self.name(index) in self._of_sizes
        return self.probe.values[self.name(index)] if known else None

    def parameter(self, index: int, attribute: str) -> np.ndarray | None:
        """Value that newer operator sets take as an input and older ones as an attribute."""
        given = self.attribute(attribute)
        return self.value(index) if given is None else np.asarray(given)

    def axis(self, value: int) -> int:
        """Make an axis number of the first input non-negative."""
        return int(value) % len(self.shape())
