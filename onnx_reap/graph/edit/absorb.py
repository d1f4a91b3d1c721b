"""Layers take over what channels bring that will go."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.edit.weights import layer_weights, set_layer
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear


@dataclass(frozen=True, eq=False)
class Read:
    """How a layer reads its inputs."""

    linear: Linear
    weight: np.ndarray  # As it is stored
    left: np.ndarray  # (outputs,) bool: outputs that don't go themselves
    per_part: int  # Inputs of each group of a grouped convolution; all of them otherwise

    def reads(self, position: int) -> bool:
        """Whether any output that is left depends on an input."""
        left = self.left[self.outputs_of(position // self.per_part)]
        return bool(self.view(self.weight, position)[left].any())

    def view(self, weight: np.ndarray, position: int) -> np.ndarray:
        """Return the part of the weight that reads one input, outputs first."""
        linear = self.linear
        if linear.group == 1 or linear.transposed:
            view: np.ndarray = np.moveaxis(weight, linear.weight_in, 0)[position]
            return view
        part, inner = divmod(position, self.per_part)
        return weight[self.outputs_of(part), inner]

    def outputs_of(self, part: int) -> slice:
        """Return the outputs of one group."""
        count = len(self.left) // self.linear.group
        return slice(part * count, (part + 1) * count)


@dataclass(frozen=True)
class Absorbed:
    """One input of a layer that is a multiple of another one, or constant."""

    read: Read
    position: int  # Of the input that goes
    by: tuple[int, float] | None  # Position of the other one, which stays, and the multiple
    constant: float


def absorb(model: Model, absorbed: Iterable[Absorbed]) -> None:
    """Change the layers of `model`, in place, such that nothing reads what goes.

    Layers with one weight absorb the same, and no constants.
    """
    by_layer: dict[str, list[Absorbed]] = {}
    for each in absorbed:
        by_layer.setdefault(each.read.linear.node, []).append(each)
    by_weight = {inputs[0].read.linear.weight: inputs for inputs in by_layer.values()}
    for inputs in by_weight.values():
        _rewrite(model, inputs)


def _rewrite(model: Model, inputs: Sequence[Absorbed]) -> None:
    read = inputs[0].read
    linear = read.linear
    stored, bias = layer_weights(model, linear)
    weight, shift = stored.astype(np.float64), np.zeros(len(read.left))
    for each in inputs:
        own = read.view(weight, each.position)
        if each.by is not None:
            position, factor = each.by
            read.view(weight, position)[...] += factor * own
        if each.constant:
            part = each.position // read.per_part
            seen = own.reshape(len(own), -1).sum(axis=1) * linear.alpha
            shift[read.outputs_of(part)] += each.constant * seen
        own[...] = 0
    model.constants()[linear.weight].values = weight.astype(stored.dtype)
    if shift.any():
        set_layer(
            model, linear, weight.astype(stored.dtype), np.broadcast_to(bias, shift.shape) + shift
        )
