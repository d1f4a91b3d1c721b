"""Writing constants back as integers, on their own grid where they still lie on it.

Biases of layers are stored with the product of the scales of input and weight, as kernels that sum
integers take for granted.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.stored import Stored
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.solve.grid import Grid, fitted

LARGEST = 2**31 - 1
INT32 = np.dtype(np.int32)


@dataclass(frozen=True)
class Written:
    """A constant as it is written: the nodes that make it, and what they read."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[gs.Constant, ...]


@dataclass(frozen=True)
class _Layer:
    """A layer whose input and weight are stored as integers."""

    weight: gs.Constant
    bias: gs.Constant | None
    step: float  # Scale of the input

    def product(self, grid: Grid) -> np.ndarray:
        """Return the scale of the products, one or one for every output."""
        others = tuple(a for a in range(grid.scale.ndim) if a != grid.axis)
        scales = grid.scale.max(others, initial=0)
        return np.asarray(np.float32(self.step) * scales.astype(np.float32))


def requantised(
    nodes: list[gs.Node], stored: Mapping[str, Stored], given: Collection[str]
) -> dict[str, Written]:
    """Write all constants that were, or have to be, stored as integers.

    Parameters
    ----------
    nodes : list of gs.Node
        Of the graph.
    stored : mapping of str to Stored
        What is known of constants.
    given : collection of str
        Names of the file's constants: a bias that was in floating point stays so.
    """
    constants = {t.name: t for node in nodes for t in node.inputs if isinstance(t, gs.Constant)}
    layers = [layer for node in nodes if (layer := _layer(node, stored)) is not None]
    written, grids = {}, dict[str, Grid]()
    for name, memory in stored.items():
        if name in constants and not memory.is_bias:
            least = _least_scales(name, memory.grid, layers)
            grids[name] = _grid(constants[name], memory, least)
            written[name] = _write(constants[name], memory, grids[name])
    scales = {
        layer.bias.name: layer.product(grids[layer.weight.name])
        for layer in layers
        if layer.bias is not None and layer.bias.name not in given
    }
    for name, constant in constants.items():
        known = stored.get(name)
        if name in scales and (known is None or known.is_bias):
            grid = _bias_grid(constant, scales[name])
            written[name] = _write(constant, known or _new_bias(constant), grid)
        elif known is not None and known.is_bias:
            written[name] = _write(constant, known, _grid(constant, known, None))
    return written


def with_makers(
    nodes: Iterable[onnx.NodeProto], written: Mapping[str, Written]
) -> list[onnx.NodeProto]:
    """Put the nodes that make a tensor in front of the first one that reads it."""
    out: list[onnx.NodeProto] = []
    left = dict(written)
    for node in nodes:
        for name in node.input:
            if name in left:
                out += left.pop(name).nodes
        out.append(node)
    return out


def _layer(node: gs.Node, stored: Mapping[str, Stored]) -> _Layer | None:
    weighted = node.domain in STANDARD_DOMAINS and Trait.WEIGHTED in traits_of(node.op)
    if not weighted or len(node.inputs) < 2 or node.inputs[1].name not in stored:
        return None
    maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    if maker is None or maker.op != "DequantizeLinear" or maker.domain not in STANDARD_DOMAINS:
        return None
    scale = maker.inputs[1]
    if not isinstance(scale, gs.Constant) or scale.values.size != 1:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    known = isinstance(bias, gs.Constant) and max(bias.shape, default=1) == np.prod(bias.shape)
    return _Layer(node.inputs[1], bias if known else None, float(scale.values.item()))


def _grid(constant: gs.Constant, memory: Stored, least: np.ndarray | None) -> Grid:
    """Return the grid to write a constant on; the given one where nothing changed."""
    if constant.values is memory.values:
        return memory.grid
    grid = memory.grid
    if grid.scale.shape != constant.values.shape:  # it was made anew, of another shape
        scale, zero = (
            np.broadcast_to(numbers.ravel()[:1].sum(dtype=numbers.dtype), constant.values.shape)
            for numbers in (grid.scale, grid.zero)
        )
        grid = replace(grid, scale=scale, zero=zero, axis=None)
    return fitted(constant.values, grid, least)


def _least_scales(name: str, grid: Grid, layers: list[_Layer]) -> np.ndarray | None:
    """Return the smallest scales of a weight for which biases are in the range of their type."""
    least = None
    for layer in layers:
        if layer.weight.name == name and layer.bias is not None and layer.step > 0:
            needed = np.abs(layer.bias.values.astype(np.float64)).ravel() / (layer.step * LARGEST)
            channels = 1 if grid.axis is None else grid.scale.shape[grid.axis]
            per = needed if len(needed) == channels else np.full(channels, needed.max(initial=0))
            per = per.max(initial=0) if grid.axis is None else per
            least = per if least is None else np.maximum(least, per)
    return None if least is None else np.asarray(least)


def _new_bias(constant: gs.Constant) -> Stored:
    """Return how to store the bias of a layer that had none."""
    name = constant.name
    node = onnx.helper.make_node(
        "DequantizeLinear", ["", ""], [name], name=f"{name}_DequantizeLinear", axis=0
    )
    names = (f"{name}_quantized", f"{name}_quantized_scale", "")
    grid = _bias_grid(constant, np.ones((), np.float32))
    return Stored((node,), (), names, np.zeros(0), INT32, grid, (), has_zero=False)


def _bias_grid(constant: gs.Constant, scale: np.ndarray) -> Grid:
    shape = constant.values.shape
    scale = scale.astype(constant.values.dtype)
    axis = int(np.argmax(shape)) if scale.size > 1 else None
    if axis is not None:
        scale = scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    full = np.broadcast_to(scale.reshape(()) if scale.size == 1 else scale, shape)
    zeros = np.broadcast_to(np.int64(0), shape)
    return Grid(full, zeros, -LARGEST, LARGEST, axis, symmetric=True)


def _write(constant: gs.Constant, memory: Stored, grid: Grid) -> Written:
    same = constant.values is memory.values and constant.name == memory.nodes[-1].output[0]
    if same and _same_scales(grid, memory.grid):
        return Written(memory.nodes, memory.inputs)
    integers = grid.nearest(constant.values)
    scale, zero = _one_each(grid.scale, grid, memory), _one_each(grid.zero, grid, memory)
    parts = [(memory.names[1], scale.astype(constant.values.dtype))]
    parts += [(memory.names[2], zero.astype(memory.kind))] if memory.has_zero else []
    if len(memory.nodes) > 1:
        first = gs.Constant(memory.names[0], grid.real(integers).astype(constant.values.dtype))
    else:
        first = gs.Constant(memory.names[0], integers.astype(memory.kind))
    inputs = [first, *(gs.Constant(name, values) for name, values in parts)]
    nodes: list[onnx.NodeProto] = []
    for number, proto in enumerate(memory.nodes):
        node = onnx.NodeProto()
        node.CopyFrom(proto)
        source = nodes[-1].output[0] if number else first.name
        del node.input[:], node.output[:]
        node.input.extend([source, *(name for name, _ in parts)])
        is_last = number == len(memory.nodes) - 1
        node.output.append(constant.name if is_last else f"{constant.name}_quantized")
        _set_axis(node, grid.axis)
        nodes.append(node)
    return Written(tuple(nodes), tuple(inputs))


def _same_scales(grid: Grid, given: Grid) -> bool:
    alike = grid.scale.shape == given.scale.shape and (grid.scale == given.scale).all()
    return bool(alike and (grid.zero == given.zero).all())


def _one_each(numbers: np.ndarray, grid: Grid, memory: Stored) -> np.ndarray:
    """Return one number of a grid, or one for every channel."""
    if grid.axis is None:
        shape = memory.scale_shape if np.prod(memory.scale_shape) == 1 else ()
        return np.asarray(numbers.ravel()[:1].sum(dtype=numbers.dtype)).reshape(shape)
    others = tuple(a for a in range(numbers.ndim) if a != grid.axis)
    return np.asarray(
        numbers[tuple(0 if a in others else slice(None) for a in range(numbers.ndim))]
    )


def _set_axis(node: onnx.NodeProto, axis: int | None) -> None:
    others = [a for a in node.attribute if a.name != "axis"]
    del node.attribute[:]
    node.attribute.extend(others)
    if axis is not None:
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
