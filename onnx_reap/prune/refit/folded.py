"""A layer and the maps per channel behind it, as one layer that is tuned."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.epilogue import Vector, affine_behind, affine_map
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.dtypes import cast, rounded
from onnx_reap.onnxio.float32 import to_float32
from onnx_reap.prune.refit.matrices import Matrices, matrices_of

WEAK = 1e-4  # outputs scaled less than this, relative to the largest, keep their weights

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Shift:
    """The constant that takes what is added to a folded layer's bias."""

    node: gs.Node
    place: int  # Among the node's inputs, perhaps behind the last one
    factor: Vector  # (O,): of a change of the bias, to add to the constant; 0 for what stays

    @property
    def constant(self) -> gs.Constant | None:
        """None where there is none yet."""
        present = self.place < len(self.node.inputs) and self.node.inputs[self.place].name
        return self.node.inputs[self.place] if present else None


@dataclass(frozen=True)
class FoldedLayer:
    """A Conv or Gemm with what follows: its weight and bias behind the maps per channel."""

    model: Model
    linear: Linear
    first: str  # What the layer makes by itself
    maps: Sequence[str]  # What the maps behind it make
    # (O,): what all maps do together
    scale: Vector
    shift: Vector
    bias: Shift | None  # None where there is no place for one
    bias_name: str  # Under which it is fed

    @property
    def node(self) -> str:
        """Key of the layer's node."""
        return self.linear.node

    @property
    def result(self) -> str:
        """What the last of the maps makes."""
        return self.maps[-1] if self.maps else self.first

    @property
    def weight_name(self) -> str:
        """Under which the weight is fed."""
        result: str = self.model.node(self.node).inputs[1].name
        return result

    @cached_property
    def values(self) -> Arrays:
        """Weight and bias behind the maps."""
        weight, *bias = self.model.node(self.node).inputs[1:3]
        given = bias[0].values.astype(np.float64).ravel() if bias and bias[0].name else 0.0
        found = {self.weight_name: to_float32(weight.values * self._along(self.scale))}
        if self.bias is not None:
            whole = given * self.scale + self.shift / self.linear.beta
            found[self.bias_name] = to_float32(np.broadcast_to(whole, self.scale.shape))
        return found

    @property
    def matrices(self) -> Matrices:
        """Those that the weight consists of."""
        weight, linear = self.values[self.weight_name], self.linear
        return matrices_of(self.weight_name, weight, linear.weight_out, linear.group)

    def steps(self, size: float) -> dict[str, np.ndarray]:
        """Return the size of each output's weights, and that of the result for biases."""
        weight = self.values[self.weight_name]
        sizes = root_mean_square(weight, self.linear.weight_out) * self._along(self._strong)
        found = {self.weight_name: sizes.astype(np.float32)}
        if self.bias is not None:
            moves = self.bias.factor != 0
            found[self.bias_name] = (size / self.linear.beta * moves).astype(np.float32)
        return found

    def as_stored(self, values: Arrays) -> dict[str, np.ndarray]:
        """Round values as `write` will."""
        dtype = self.model.node(self.node).inputs[1].values.dtype
        weight = rounded(self._weight(values), dtype) * self._along(self.scale)
        found = {self.weight_name: to_float32(weight)}
        if self.bias is not None:
            old, new = self._constant(values, self.bias)
            factor = self.bias.factor
            change = np.divide(new - old, factor, out=np.zeros_like(factor), where=factor != 0)
            found[self.bias_name] = to_float32(self.values[self.bias_name] + change)
        return found

    def write(self, values: Arrays) -> None:
        """Replace weight, and the constant that takes the bias, where they differ."""
        node = self.model.node(self.node)
        if not np.array_equal(values[self.weight_name], self.values[self.weight_name]):
            dtype = node.inputs[1].values.dtype
            node.inputs[1].values = cast(self._weight(values), dtype)
        if self.bias is None:
            return
        old, new = self._constant(values, self.bias)
        constant = self.bias.constant
        if np.array_equal(old, new):
            return
        if constant is None:
            added = cast(new, node.inputs[1].values.dtype)
            name = self.model.unused(f"{self.first}_bias")
            node.inputs = [*node.inputs[:2], gs.Constant(name, added)]
        else:
            shape, dtype = constant.values.shape, constant.values.dtype
            constant.values = cast(new.reshape(*shape[:-1], -1), dtype)

    def _constant(self, values: Arrays, bias: Shift) -> tuple[Vector, Vector]:
        """Return the constant that takes the bias, as it is and as it will be stored, (O,)."""
        dtype = self.model.node(self.node).inputs[1].values.dtype
        old = np.zeros_like(self.scale)
        if bias.constant is not None:
            dtype = bias.constant.values.dtype
            old = old + bias.constant.values.astype(np.float64).ravel()
        change = values[self.bias_name].astype(np.float64) - self.values[self.bias_name]
        return old, rounded(old + change * bias.factor, dtype).astype(np.float64)

    def _weight(self, values: Arrays) -> np.ndarray:
        """Return the weight in front of the maps; that of outputs which hardly count stays."""
        old = self.model.node(self.node).inputs[1].values
        strong = self._along(self._strong)
        new = values[self.weight_name] / np.where(strong, self._along(self.scale), 1)
        result: np.ndarray = np.where(strong, new, old)
        return result

    @property
    def _strong(self) -> np.ndarray:
        return _counts(self.scale)

    def _along(self, vector: np.ndarray) -> np.ndarray:
        """Shape a number an output to broadcast along the weight."""
        rank, axis = len(self.model.node(self.node).inputs[1].shape), self.linear.weight_out
        return vector.reshape([-1 if i == axis else 1 for i in range(rank)])


def fold_layer(
    model: Model,
    linear: Linear,
    is_own: Callable[[str, int], bool],
    needed: Collection[str],
    *,
    may_grow: bool,
) -> FoldedLayer:
    """Fold the maps behind a layer into it, unless tensors between them are needed.

    Parameters
    ----------
    is_own : callable
        Whether an input of a node, by its key, is a constant that nothing else reads.
    may_grow : bool
        Whether the layer may be given a bias that it lacks.
    """
    node = model.node(linear.node)
    outputs = node.inputs[1].shape[linear.weight_out]
    maps, scale, shift = affine_behind(model, linear, outputs)
    first = node.outputs[0].name
    names = [each.outputs[0].name for each in maps]
    bias = _shift(model, linear, maps, scale, is_own, may_grow=may_grow)
    if not {first, *names[:-1]}.isdisjoint(needed) or (bias is None and shift.any()):
        maps, names, scale, shift = [], [], np.ones(outputs), np.zeros(outputs)
        bias = _shift(model, linear, maps, scale, is_own, may_grow=may_grow)
    folded = FoldedLayer(model, linear, first, names, scale, shift, bias, "")
    return folded if bias is None else replace(folded, bias_name=model.unused(f"{first}_tuned"))


def _shift(
    model: Model,
    linear: Linear,
    maps: Sequence[gs.Node],
    scale: Vector,
    is_own: Callable[[str, int], bool],
    *,
    may_grow: bool,
) -> Shift | None:
    """Find the constant that takes a change of the bias: a normalisation's, or the layer's own."""
    outputs, rank = len(scale), linear.y_axis + 1 + len(linear.kernel)
    behind = np.ones(outputs)
    for each in reversed(maps):
        if each.op == "BatchNormalization" and is_own(model.keys[id(each)], 2) and behind.all():
            return Shift(each, 2, linear.beta / behind)
        tensor = next(t for t in each.inputs if not isinstance(t, gs.Constant))
        affine = affine_map(each, tensor, linear.y_axis, rank, outputs)
        behind = behind * (1.0 if affine is None else affine[0])
    factor = np.divide(1.0, scale, out=np.zeros(outputs), where=_counts(scale))
    node = model.node(linear.node)
    own = len(node.inputs) > 2 and bool(node.inputs[2].name)
    return Shift(node, 2, factor) if own or may_grow else None


def _counts(scale: Vector) -> np.ndarray:
    result: np.ndarray = np.abs(scale) > WEAK * np.abs(scale).max()
    return result


def spread(x: np.ndarray) -> float:
    """Return how far results are from their means over the samples of a batch, mostly."""
    away = x - x.mean(axis=0, dtype=np.float64)
    found = float(np.sqrt(np.mean(np.square(away))))
    return found or float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def root_mean_square(weight: np.ndarray, axis: int | None) -> np.ndarray:
    """Return the size of all numbers, or of each slice along an axis, to broadcast."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    square = np.mean(np.square(weight, dtype=np.float64), axis=others, keepdims=True)
    result: np.ndarray = np.sqrt(square).astype(np.float32)
    return result
