"""Layers take over what channels bring that will go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.model import Model
from onnx_reap.graph.probe import Probe
from onnx_reap.graph.records import Linear
from onnx_reap.graph.weights import layer_weights, set_layer, set_weight


@dataclass(frozen=True, eq=False)
class Read:
    """How a layer reads its inputs.

    Attributes
    ----------
    linear : Linear
    weight : array
        As it is stored.
    outputs : int
    per_part : int
        Inputs of each group of a grouped convolution; all of them otherwise.
    """

    linear: Linear
    weight: np.ndarray
    outputs: int
    per_part: int

    def weights(self, position: int, weight: np.ndarray | None = None) -> np.ndarray:
        """Return a view of what reads one input, outputs first where all positions see it."""
        weight, linear = self.weight if weight is None else weight, self.linear
        if linear.group == 1 or linear.transposed:
            view: np.ndarray = np.moveaxis(weight, linear.weight_in, 0)[position]
            return view
        part, inner = divmod(position, self.per_part)
        return weight[self.outputs_of(part), inner]

    def outputs_of(self, part: int) -> slice:
        """Return the outputs of one group."""
        count = self.outputs // self.linear.group
        return slice(part * count, (part + 1) * count)


def reading(linear: Linear, weight: np.ndarray, probe: Probe) -> Read:
    """Describe how a layer reads its inputs."""
    inputs = probe.shapes[linear.x][linear.x_axis]
    outputs = probe.shapes[linear.y][linear.y_axis]
    return Read(linear, weight, outputs, inputs // linear.group)


@dataclass(frozen=True)
class Absorbed:
    """One input of a layer that is `constant` plus a combination of others.

    Attributes
    ----------
    read : Read
    position : int
        Of the input that goes.
    by : mapping of int to float
        Positions of inputs that stay, and their coefficients.
    constant : float
    """

    read: Read
    position: int
    by: Mapping[int, float]
    constant: float


def absorb(model: Model, absorbed: Iterable[Absorbed]) -> None:
    """Change the layers of `model`, in place, such that nothing reads what goes."""
    by_layer: dict[str, list[Absorbed]] = {}
    for each in absorbed:
        by_layer.setdefault(each.read.linear.node, []).append(each)
    for inputs in by_layer.values():
        _rewrite(model, inputs)


def _rewrite(model: Model, inputs: Iterable[Absorbed]) -> None:
    read = next(iter(inputs)).read
    linear = read.linear
    stored, bias = layer_weights(model, linear)
    weight, shift = stored.astype(np.float64), np.zeros(read.outputs)
    for each in inputs:
        own = read.weights(each.position, weight)
        for position, factor in each.by.items():
            read.weights(position, weight)[...] += factor * own
        if each.constant:
            part = each.position // read.per_part
            seen = own.reshape(len(own), -1).sum(axis=1) * linear.alpha
            shift[read.outputs_of(part)] += each.constant * seen
        own[...] = 0
    weight = weight.astype(stored.dtype)
    if shift.any():
        set_layer(model, linear, weight, np.broadcast_to(bias, shift.shape) + shift)
    else:
        set_weight(model, linear, weight)
