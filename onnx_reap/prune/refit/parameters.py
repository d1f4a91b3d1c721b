"""What tuning moves: weights and biases of layers, scale and shift of normalisations.

Maps per channel behind a layer, such as BatchNormalization with its statistics, are one with the
layer while it is tuned: there are fewer nodes to run, a step is relative to what the rest of the
network sees, and the bias is one that is there anyway.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.edit.weights import bias_behind, has_plain_bias
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.backward import Facts, first_result
from onnx_reap.measure.autodiff.norms import PARAMETERS
from onnx_reap.measure.autodiff.older import as_written
from onnx_reap.onnxio.dtypes import cast, is_float, rounded
from onnx_reap.onnxio.float32 import to_float32
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.refit.folded import FoldedLayer, fold_layer, root_mean_square
from onnx_reap.prune.refit.matrices import Matrices, matrices_of

Arrays = Mapping[str, np.ndarray]

LARGEST = 2**23  # weights of a layer; wider ones stay as they were refitted


class Parameter(Protocol):
    """Numbers of a model that move together; by the names under which a part is fed them."""

    @property
    def node(self) -> str:
        """Key of the node that they belong to."""
        ...

    @property
    def result(self) -> str:
        """The tensor that they make, whose size tells what a step of a shift is."""
        ...

    @property
    def values(self) -> Arrays:
        """What they are now, float32."""
        ...

    @property
    def matrices(self) -> Matrices | None:
        """Those that its weight consists of, if it has one."""
        ...

    def steps(self, size: float) -> dict[str, np.ndarray]:
        """Return what a step of 1 is, given the size of the result; 0 for what doesn't move."""
        ...

    def as_stored(self, values: Arrays) -> dict[str, np.ndarray]:
        """Round values as writing them will."""
        ...

    def write(self, values: Arrays) -> None:
        """Replace the constants of the model that differ."""
        ...


@dataclass(frozen=True)
class PlainConstant:
    """One constant: the weight of a MatMul, what is added to it, scale or shift of a norm."""

    model: Model
    node: str
    place: int  # Of the constant among the node's inputs
    result: str
    # Axis of the results, along which weights have a size each; None for vectors
    axis: int | None = None
    shifts: bool = False  # Whether it is added to the result

    @property
    def name(self) -> str:
        """Name of the constant."""
        result: str = self.model.node(self.node).inputs[self.place].name
        return result

    @cached_property
    def _values(self) -> np.ndarray:
        result: np.ndarray = self.model.node(self.node).inputs[self.place].values
        return result

    @property
    def values(self) -> Arrays:
        """What it is now."""
        return {self.name: to_float32(self._values)}

    @property
    def matrices(self) -> Matrices | None:
        """The one that it is, if it belongs to a layer."""
        if self.axis is None or self._values.ndim != 2:
            return None
        return matrices_of(self.name, self._values, self.axis, 1)

    def steps(self, size: float) -> dict[str, np.ndarray]:
        """Return its size, for each result of a weight; that of the result for what is added."""
        if self.shifts:
            return {self.name: np.asarray(size, np.float32)}
        return {self.name: root_mean_square(to_float32(self._values), self.axis)}

    def as_stored(self, values: Arrays) -> dict[str, np.ndarray]:
        """Round."""
        return {self.name: rounded(values[self.name], self._values.dtype)}

    def write(self, values: Arrays) -> None:
        """Replace the constant."""
        if not np.array_equal(values[self.name], self.values[self.name]):
            constant = self.model.node(self.node).inputs[self.place]
            constant.values = cast(values[self.name], self._values.dtype)


@dataclass(frozen=True)
class Parameters:
    """All that moves in a cut model."""

    model: Model
    every: Sequence[Parameter]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """What they are now, by name."""
        return {name: x for each in self.every for name, x in each.values.items()}

    @property
    def nodes(self) -> tuple[str, ...]:
        """Keys of the nodes that they belong to, each once."""
        return tuple(dict.fromkeys(each.node for each in self.every))

    def only(self, names: Set[str]) -> "Parameters":
        """Leave out those of which not all numbers are named."""
        return Parameters(self.model, [p for p in self.every if p.values.keys() <= names])

    def of(self, nodes: Set[str]) -> "Parameters":
        """Leave out those of other nodes."""
        return Parameters(self.model, [p for p in self.every if p.node in nodes])

    def as_stored(self, values: Arrays) -> dict[str, np.ndarray]:
        """Round values as writing them will."""
        return {n: x for each in self.every for n, x in each.as_stored(values).items()}

    def write(self, values: Arrays) -> None:
        """Replace the constants of the model that differ."""
        for each in self.every:
            each.write(values)

    def steps(self, sizes: Mapping[str, float], *, zeros_stay: bool) -> dict[str, np.ndarray]:
        """Return what a step of 1 is, given sizes of results by name."""
        found = {n: x for p in self.every for n, x in p.steps(sizes[p.result]).items()}
        if not zeros_stay:
            return found
        weights = {name: x for name, x in self.values.items() if x.ndim > 1}
        return found | {name: np.where(x == 0, 0, found[name]) for name, x in weights.items()}

    def part(self, inputs: Mapping[str, np.dtype], outputs: Sequence[str]) -> LightModel:
        """Write what computes tensors from others, fed with the parameters as well."""
        fed = {name: array.dtype for name, array in self.values.items()}
        part = as_written(self.model.part({**inputs, **fed}, outputs))
        _fold(part.proto.graph, {layer.first: layer for layer in self._folded})
        return part

    @property
    def _folded(self) -> list[FoldedLayer]:
        return [each for each in self.every if isinstance(each, FoldedLayer)]

    def facts(self, facts: Facts) -> Facts:
        """Add to what is known of the model's tensors what is known of such parts."""
        shapes = {name: x.shape for name, x in self.values.items()} | dict(facts.shapes)
        folded = {layer.result: facts.layers[layer.first] for layer in self._folded}
        layers = {**facts.layers, **folded}
        return Facts(shapes, layers, facts.varying)


def _fold(graph: onnx.GraphProto, layers: Mapping[str, FoldedLayer]) -> None:
    """Let layers take the place of the maps behind them, with a weight and bias that are fed."""
    maps = {name for layer in layers.values() for name in layer.maps}
    nodes, biases = [], []
    for node in graph.node:
        layer = layers.get(first_result(node))
        if layer is not None:
            node.input[:] = [node.input[0], *layer.values]
            node.output[:] = [layer.result]
            biases += [*layer.values][1:]
        if layer is not None or maps.isdisjoint(node.output):
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    fed = {value.name for value in graph.input}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in biases
        if name not in fed
    )


def find_parameters(
    pruned: Model, linears: Sequence[Linear], needed: Collection[str], grows: Collection[str]
) -> Parameters:
    """List what may move in a cut model: constants that one node alone reads.

    Equal ones that the file holds once stay: apart, they would be more than budgets count.

    Parameters
    ----------
    linears : sequence of Linear
        All layers but recurrent ones, as they are after the cut.
    needed : collection of str
        Tensors that have to be there.
    grows : collection of str
        Layers that may be given a bias.
    """
    users = Counter(tensor.name for node in pruned.nodes for tensor in node.inputs)
    users.update(captured_tensors(pruned.nodes).keys())
    users.update(tensor.name for tensor in pruned.graph.outputs)
    once = pruned.written_once()
    users.update([*once.keys(), *once.values()])

    def is_own(key: str, place: int) -> bool:
        for constant in pruned.node(key).inputs[place : place + 1]:
            floats = isinstance(constant, gs.Constant) and is_float(constant.values.dtype)
            return floats and users[constant.name] == 1 and constant.values.size <= LARGEST
        return False

    found: list[Parameter] = []
    for linear in linears:
        found += _of_layer(pruned, linear, is_own, needed, may_grow=linear.node in grows)
    taken = {name for each in found for name in (each.result, *getattr(each, "maps", ()))}
    for node in pruned.nodes:
        result = node.outputs[0].name if node.outputs else ""
        if node.op in PARAMETERS and result not in taken:
            key = pruned.keys[id(node)]
            places = [place for place in sorted(PARAMETERS[node.op]) if is_own(key, place)]
            found += [PlainConstant(pruned, key, p, result, shifts=p == 2) for p in places]
    return Parameters(pruned, found)


def _of_layer(
    pruned: Model,
    linear: Linear,
    is_own: Callable[[str, int], bool],
    needed: Collection[str],
    *,
    may_grow: bool,
) -> Iterator[Parameter]:
    """List what moves of a layer: its weight, and what is added to its result."""
    node = pruned.node(linear.node)
    result = node.outputs[0].name
    bias = [place for place, tensor in enumerate(node.inputs[2:3], 2) if tensor.name]
    plain = all(is_own(linear.node, place) for place in (1, *bias)) and linear.op != "ConvTranspose"
    if not plain:
        return
    if linear.op != "MatMul":
        if has_plain_bias(pruned, linear):
            yield fold_layer(pruned, linear, is_own, needed, may_grow=may_grow)
        return
    yield PlainConstant(pruned, linear.node, 1, result, axis=linear.weight_out)
    behind = bias_behind(pruned, node)
    if behind is not None:
        key, place = pruned.keys[id(behind[0])], behind[1]
        if is_own(key, place):
            yield PlainConstant(pruned, key, place, behind[0].outputs[0].name, shifts=True)
