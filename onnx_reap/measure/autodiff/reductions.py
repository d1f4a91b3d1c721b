"""Gradients of sums, means and largest entries over whole axes."""

import math
from collections.abc import Mapping

import onnx

from onnx_reap.measure.autodiff.gradient import Gradient
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape, attributes


def global_average(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a GlobalAveragePool: every entry has an equal share."""
    x = node.input[0]
    share = tape.op("Div", dy, tape.floats(math.prod(tape.shapes[x][2:])))
    return tape.op("Expand", share, tape.op("Shape", x))


def global_max(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a GlobalMaxPool."""
    axes = range(2, len(tape.shapes[node.input[0]]))
    return _to_extremes(tape, node, dy, node.output[0], [*axes])


def extreme(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a ReduceMax or ReduceMin."""
    axes = _axes(tape, node)
    return _to_extremes(
        tape, node, _kept(tape, node, dy, axes), _kept(tape, node, node.output[0], axes), axes
    )


def total(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a ReduceSum."""
    return tape.op(
        "Expand", _kept(tape, node, dy, _axes(tape, node)), tape.op("Shape", node.input[0])
    )


def mean(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a ReduceMean."""
    sizes = [tape.op("Size", name) for name in (node.input[0], node.output[0])]
    count = tape.op("Cast", tape.op("Div", *sizes), to=onnx.TensorProto.FLOAT)
    return total(tape, node, tape.op("Div", dy, count), place)


def has_constant_axes(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether it is known what a reduction reduces."""
    given = [name for name in node.input[1:] if name]
    if any(name not in constants for name in given):
        return False
    values = [int(axis) for name in given for axis in constants[name]]
    reduces = bool(values or attributes(node).get("axes"))
    return reduces or not attributes(node).get("noop_with_empty_axes")


def _axes(tape: Tape, node: onnx.NodeProto) -> list[int]:
    rank = len(tape.shapes[node.input[0]])
    given = attributes(node).get("axes", [])
    if len(node.input) > 1 and node.input[1]:
        given = [int(axis) for axis in tape.values(node.input[1])]
    return sorted(axis % rank for axis in given) or [*range(rank)]


def _kept(tape: Tape, node: onnx.NodeProto, result: str, axes: list[int]) -> str:
    """Give something of the shape of a reduction's result the rank of what was reduced."""
    if attributes(node).get("keepdims", 1) == 1:
        return result
    if tape.opset < 13:
        return tape.op("Unsqueeze", result, axes=axes)
    return tape.op("Unsqueeze", result, tape.ints(axes))


def _to_extremes(tape: Tape, node: onnx.NodeProto, dy: str, y: str, axes: list[int]) -> str:
    """Let entries share a gradient that are as large as the result."""
    found = tape.op("Equal", node.input[0], y)
    mask = tape.op("Cast", found, to=onnx.TensorProto.FLOAT)
    share = tape.op("Div", dy, tape.total(mask, axes, keep=True))
    return tape.op("Mul", mask, share)


REDUCTIONS: Mapping[str, Gradient] = {
    "GlobalAveragePool": Gradient(global_average),
    "GlobalMaxPool": Gradient(global_max),
    "ReduceMax": Gradient(extreme, fits=has_constant_axes),
    "ReduceMean": Gradient(mean, fits=has_constant_axes),
    "ReduceMin": Gradient(extreme, fits=has_constant_axes),
    "ReduceSum": Gradient(total, fits=has_constant_axes),
}
