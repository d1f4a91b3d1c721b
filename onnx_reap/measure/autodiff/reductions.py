"""Gradients of sums, means and largest entries over whole axes."""

import math
from collections.abc import Callable, Mapping

import onnx

from onnx_reap.measure.autodiff.gradient import Gradient, Step, share_of_extremes
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes


def global_average(at: Step) -> Value:
    """Gradient of a GlobalAveragePool: every entry has an equal share."""
    return (at.dy / math.prod(at.x.shape[2:])).op("Expand", at.x.sizes())


def global_max(at: Step) -> Value:
    """Gradient of a GlobalMaxPool."""
    return share_of_extremes(at.x, at.y, at.dy, range(2, at.rank))


def extreme(at: Step) -> Value:
    """Gradient of a ReduceMax or ReduceMin."""
    axes = _axes(at)
    dy = _with_axes(at, at.dy, axes)
    return share_of_extremes(at.x, _with_axes(at, at.y, axes), dy, axes)


def total(at: Step) -> Value:
    """Gradient of a ReduceSum."""
    return _with_axes(at, at.dy, _axes(at)).op("Expand", at.x.sizes())


def mean(at: Step) -> Value:
    """Gradient of a ReduceMean."""
    count = (at.x.op("Size") / at.y.op("Size")).floats()
    return _with_axes(at, at.dy / count, _axes(at)).op("Expand", at.x.sizes())


def of_sum(slope: Callable[[Value, Value], Value]) -> Gradient:
    """Make the gradient of a function of a sum, from the slope by each entry and the result."""

    def write(at: Step) -> Value:
        axes = _axes(at)
        dy, y = (_with_axes(at, each, axes) for each in (at.dy, at.y))
        return dy * slope(at.x, y)

    return Gradient(write, fits=has_constant_axes)


def has_constant_axes(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether it is known what a reduction reduces."""
    given = [name for name in node.input[1:] if name]
    if any(name not in constants for name in given):
        return False
    reduces = any(constants[name].size for name in given) or attributes(node).get("axes")
    return bool(reduces) or not attributes(node).get("noop_with_empty_axes")


def _axes(at: Step) -> list[int]:
    given = at.get("axes", [])
    if len(at.node.input) > 1 and at.node.input[1]:
        given = at.tape.constants[at.node.input[1]].tolist()
    return sorted(axis % at.rank for axis in given) or [*range(at.rank)]


def _with_axes(at: Step, result: Value, axes: list[int]) -> Value:
    """Give something of the shape of a reduction's result the rank of what was reduced."""
    if at.get("keepdims", 1) == 1:
        return result
    if at.tape.opset < 13:
        return result.op("Unsqueeze", axes=axes)
    return result.op("Unsqueeze", axes)


REDUCTIONS: Mapping[str, Gradient] = {
    "GlobalAveragePool": Gradient(global_average),
    "GlobalMaxPool": Gradient(global_max),
    "ReduceL1": of_sum(lambda x, y: x.op("Sign")),
    "ReduceL2": of_sum(lambda x, y: x / y),
    "ReduceLogSumExp": of_sum(lambda x, y: (x - y).exp()),
    "ReduceMax": Gradient(extreme, fits=has_constant_axes),
    "ReduceMean": Gradient(mean, fits=has_constant_axes),
    "ReduceMin": Gradient(extreme, fits=has_constant_axes),
    "ReduceSum": Gradient(total, fits=has_constant_axes),
    "ReduceSumSquare": of_sum(lambda x, y: x * 2),
}
