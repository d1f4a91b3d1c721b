"""Gradients of normalizations and of softmax."""

from collections.abc import Mapping, Sequence

import onnx

from onnx_reap.measure.autodiff.gradient import Gradient
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape, attributes


def batch_norm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a BatchNormalization that does not train."""
    gamma, variance = tape.values(node.input[1]), tape.values(node.input[4])
    scale = gamma / (variance + attributes(node).get("epsilon", 1e-5)) ** 0.5
    rank = len(tape.shapes[node.input[0]])
    return tape.op("Mul", dy, tape.floats(scale.reshape(-1, *[1] * (rank - 2))))


def layer_norm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a LayerNormalization."""
    x, scale = node.input[:2]
    rank = len(tape.shapes[x])
    axes = range(attributes(node).get("axis", -1) % rank, rank)
    return _normalized(tape, node, x, tape.op("Mul", dy, scale), axes)


def instance_norm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of an InstanceNormalization."""
    x = node.input[0]
    scaled = tape.op("Mul", dy, _by_channel(tape, node.input[1], len(tape.shapes[x])))
    return _normalized(tape, node, x, scaled, range(2, len(tape.shapes[x])))


def group_norm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a GroupNormalization, whose scale was one number a group before version 21."""
    x, scale = node.input[:2]
    apart = tape.ints([0, attributes(node)["num_groups"], -1])
    if tape.opset < 21:
        by_group = tape.op("Reshape", scale, tape.ints([-1, 1]))
        scaled = tape.op("Mul", tape.op("Reshape", dy, apart), by_group)
    else:
        by_channel = _by_channel(tape, scale, len(tape.shapes[x]))
        scaled = tape.op("Reshape", tape.op("Mul", dy, by_channel), apart)
    found = _normalized(tape, node, tape.op("Reshape", x, apart), scaled, [2])
    return tape.like(found, x)


def has_one_result(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether a normalization returns no statistics."""
    return not any(node.output[1:])


def softmax(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Softmax."""
    y = node.output[0]
    total = tape.total(tape.op("Mul", dy, y), _softmax_axes(tape, node), keep=True)
    return tape.op("Mul", y, tape.op("Sub", dy, total))


def log_softmax(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a LogSoftmax."""
    total = tape.total(dy, _softmax_axes(tape, node), keep=True)
    return tape.op("Sub", dy, tape.op("Mul", tape.op("Exp", node.output[0]), total))


def _softmax_axes(tape: Tape, node: onnx.NodeProto) -> Sequence[int]:
    """Return the axes whose entries add up to one: the last ones before version 13."""
    rank = len(tape.shapes[node.input[0]])
    if tape.opset < 13:
        return range(attributes(node).get("axis", 1) % rank, rank)
    return [attributes(node).get("axis", -1) % rank]


def _by_channel(tape: Tape, scale: str, rank: int) -> str:
    return tape.op("Reshape", scale, tape.ints([-1, *[1] * (rank - 2)]))


def _normalized(tape: Tape, node: onnx.NodeProto, x: str, dy: str, axes: Sequence[int]) -> str:
    """Pass a gradient at what has mean 0 and variance 1 along axes."""

    def mean(values: str) -> str:
        return tape.reduced("ReduceMean", values, axes, keep=True)

    centred = tape.op("Sub", x, mean(x))
    epsilon = tape.floats(attributes(node).get("epsilon", 1e-5))
    variance = tape.op("Add", mean(tape.op("Mul", centred, centred)), epsilon)
    deviation = tape.op("Sqrt", variance)
    result = tape.op("Div", centred, deviation)
    along = tape.op("Mul", result, mean(tape.op("Mul", dy, result)))
    rest = tape.op("Sub", tape.op("Sub", dy, mean(dy)), along)
    return tape.op("Div", rest, deviation)


NORMS: Mapping[str, Gradient] = {
    "BatchNormalization": Gradient(batch_norm, constant=(1, 4)),
    "GroupNormalization": Gradient(group_norm),
    "InstanceNormalization": Gradient(instance_norm),
    "LayerNormalization": Gradient(layer_norm, fits=has_one_result),
    "LogSoftmax": Gradient(log_softmax),
    "Softmax": Gradient(softmax),
}
