"""What the label flow finds: which constants follow tensors, which nodes are linear, what ties."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.labels.labels import LabelArray, Reason, vector_along
from onnx_reap.graph.rules.traits import Trait, traits_of


@dataclass(frozen=True)
class Binding:
    """One axis of a constant that follows one axis of a tensor.

    With `blocks` > 1 the tensor's axis is that many times as long as the constant's: a grouped
    convolution's weight, whose every group of outputs reads another block of inputs.
    """

    constant: str
    constant_axis: int
    tensor: str
    tensor_axis: int
    blocks: int = 1


@dataclass(frozen=True)
class EqualCounts:
    """The channels along an axis fall into `parts` equal runs that must stay equally long."""

    node: str
    tensor: str
    axis: int
    parts: int


@dataclass(frozen=True)
class Linear:
    """A node that mixes channels with a constant weight.

    Conv, ConvTranspose, Gemm, MatMul, and what LSTM, GRU and RNN do with their input: see
    `onnx_reap.graph.ir.recurrent`.
    """

    # Key of the node, and its operator
    node: str
    op: str
    # Input and output tensor; a recurrent layer's projection
    x: str
    y: str
    # The axis that is summed over, and the axis of the results
    x_axis: int
    y_axis: int
    # Names of the constants; `bias` is None where the node has none
    weight: str
    bias: str | None
    # Axes of the weight that belong to inputs and outputs. A recurrent layer's outputs are those of
    # both directions.
    weight_in: int
    weight_out: int
    group: int = 1  # Independent maps side by side (1 but for grouped convolutions)
    # One input channel per map: channels pass through instead of being mixed
    depthwise: bool = False
    # Spatial geometry; empty for Gemm and MatMul
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()  # Begin of every axis, then end of every axis
    # Factors of weight and bias (Gemm)
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def transposed(self) -> bool:
        """Whether this is a transposed convolution."""
        return self.op == "ConvTranspose"

    @property
    def recurrent(self) -> bool:
        """Whether this is the projection of a recurrent layer."""
        return Trait.RECURRENT in traits_of(self.op)

    @property
    def reading(self) -> tuple[object, ...]:
        """How the weight is read: layers that agree in it are one function but for their biases."""
        way = (self.op, self.weight_in, self.group, self.kernel, self.alpha)
        return (self.weight, *way)

    @property
    def taps(self) -> int:
        """Kernel positions per input channel."""
        count = 1
        for size in self.kernel:
            count *= size
        return count


@dataclass(frozen=True)
class Product:
    """Products that no `Linear` does, of activations for instance: counted, never refitted.

    Every entry of the tensor `y` takes so many multiply-accumulates.
    """

    y: str
    terms: float
    # What has one axis, of whose entries each takes so many: the hidden state of a recurrent layer,
    # and the constant whose last axis reads it
    over: str | None = None
    weight: str | None = None


@dataclass(frozen=True)
class Flow:
    """The labels of every tensor, and all that the rules declared."""

    # Representatives (units), one array of the tensor's shape; 0 is frozen
    labels: Mapping[str, LabelArray]
    # The one axis along which a tensor's units vary, for tensors that have any
    axes: Mapping[str, int]
    linears: tuple[Linear, ...]  # In topological order
    products: tuple[Product, ...]
    bindings: tuple[Binding, ...]
    equal_counts: tuple[EqualCounts, ...]
    # For every node that made channels of its own: their units, in channel order
    makers: Mapping[str, LabelArray]
    members: Mapping[str, LabelArray]  # The same channels by the raw labels, to look up `reasons`
    reasons: Mapping[int, Reason]  # Why a raw label is frozen
    of_sizes: frozenset[str]  # Tensors that are computed from the sizes of others

    def units_along(self, tensor: str, axis: int) -> LabelArray:
        """Return the units at each position along an axis, zero where the axis holds none."""
        labels = self.labels[tensor]
        if self.axes.get(tensor) != axis:
            return np.zeros(labels.shape[axis], np.int64)
        return vector_along(labels, axis)

    def followed(self, constant: str) -> dict[int, tuple[int, list[int]]]:
        """Return, by axis of a constant, the units that it follows, and how many blocks of them."""
        return {
            each.constant_axis: (
                each.blocks,
                self.units_along(each.tensor, each.tensor_axis).tolist(),
            )
            for each in self.bindings
            if each.constant == constant
        }

    def holders(self, units: Collection[int]) -> set[str]:
        """Return the tensors that hold any of some units along their axis."""
        wanted = set(units)
        return {
            tensor
            for tensor, axis in self.axes.items()
            if not wanted.isdisjoint(self.units_along(tensor, axis).tolist())
        }
