"""Gradients of functions of single entries."""

import math
from collections.abc import Mapping
from functools import partial, reduce

import onnx

from onnx_reap.measure.autodiff.gradient import Gradient
from onnx_reap.measure.autodiff.tape import Tape, attributes


def relu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Relu."""
    return tape.where(tape.op("Greater", node.output[0], tape.floats(0)), dy)


def clip(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Clip with any bounds."""
    x, bounds = node.input[0], [*node.input[1:], "", ""]
    inside = [
        tape.op(comparison, x, bound)
        for comparison, bound in zip(("Greater", "Less"), bounds, strict=False)
        if bound
    ]
    # One mask: comparisons are cheap next to casts and products.
    return tape.where(reduce(partial(tape.op, "And"), inside), dy) if inside else dy


def leaky_relu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a LeakyRelu."""
    small = tape.op("Mul", dy, tape.floats(attributes(node).get("alpha", 0.01)))
    return tape.op("Where", tape.op("Greater", node.input[0], tape.floats(0)), dy, small)


def sigmoid(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Sigmoid."""
    y = node.output[0]
    slope = tape.op("Mul", y, tape.op("Sub", tape.floats(1), y))
    return tape.op("Mul", dy, slope)


def tanh(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Tanh."""
    y = node.output[0]
    return tape.op("Mul", dy, tape.op("Sub", tape.floats(1), tape.op("Mul", y, y)))


def hard_sigmoid(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a HardSigmoid."""
    y, slope = node.output[0], tape.floats(attributes(node).get("alpha", 0.2))
    above = tape.where(tape.op("Greater", y, tape.floats(0)), tape.op("Mul", dy, slope))
    return tape.where(tape.op("Less", y, tape.floats(1)), above)


def hard_swish(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a HardSwish."""
    x = node.input[0]
    inner = tape.op("Add", tape.op("Div", x, tape.floats(3)), tape.floats(0.5))
    high = tape.op("Greater", x, tape.floats(3))
    slope = tape.op("Where", high, tape.floats(1), inner)
    above = tape.op("Greater", x, tape.floats(-3))
    return tape.where(above, tape.op("Mul", dy, slope))


def erf(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of an Erf."""
    x = node.input[0]
    bell = tape.op("Exp", tape.op("Neg", tape.op("Mul", x, x)))
    return tape.op("Mul", dy, tape.op("Mul", bell, tape.floats(2 / math.sqrt(math.pi))))


def neg(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Neg."""
    return tape.op("Neg", dy)


def absolute(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of an Abs."""
    return tape.op("Mul", dy, tape.op("Sign", node.input[0]))


def sqrt(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Sqrt."""
    return tape.op("Div", tape.op("Mul", dy, tape.floats(0.5)), node.output[0])


def exp(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of an Exp."""
    return tape.op("Mul", dy, node.output[0])


def log(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Log."""
    return tape.op("Div", dy, node.input[0])


def reciprocal(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Reciprocal."""
    y = node.output[0]
    return tape.op("Neg", tape.op("Mul", dy, tape.op("Mul", y, y)))


def softplus(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Softplus."""
    return tape.op("Mul", dy, tape.op("Sigmoid", node.input[0]))


def elu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of an Elu: below zero, the result is alpha less than its slope."""
    slope = tape.op("Add", node.output[0], tape.floats(attributes(node).get("alpha", 1.0)))
    high = tape.op("Greater", node.input[0], tape.floats(0))
    return tape.op("Where", high, dy, tape.op("Mul", dy, slope))


def prelu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a PRelu towards its input."""
    x, slope = node.input
    small = tape.op("Mul", dy, slope)
    return tape.op("Where", tape.op("Greater", x, tape.floats(0)), dy, small)


def gelu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Gelu, exact or approximated by a Tanh: x times a gate."""
    write = _tanh_gate if attributes(node).get("approximate", "none") == "tanh" else _erf_gate
    gate, slope = write(tape, node.input[0])
    steep = tape.op("Mul", node.input[0], slope)
    return tape.op("Mul", dy, tape.op("Add", gate, steep))


def _erf_gate(tape: Tape, x: str) -> tuple[str, str]:
    """Write the share of a normal distribution below x, and its density."""
    whole = tape.op("Erf", tape.op("Mul", x, tape.floats(math.sqrt(0.5))))
    gate = tape.op("Mul", tape.op("Add", whole, tape.floats(1)), tape.floats(0.5))
    square = tape.op("Mul", tape.op("Mul", x, x), tape.floats(-0.5))
    return gate, tape.op("Mul", tape.op("Exp", square), tape.floats(math.sqrt(0.5 / math.pi)))


def _tanh_gate(tape: Tape, x: str) -> tuple[str, str]:
    """Write the sigmoid of a polynomial of x that comes close to that share, and its slope."""
    steep, cubic = math.sqrt(8 / math.pi), 0.044715
    square = tape.op("Mul", tape.op("Mul", x, x), tape.floats(steep * cubic))
    inner = tape.op("Mul", x, tape.op("Add", square, tape.floats(steep)))
    gate = tape.op("Sigmoid", inner)
    of_inner = tape.op("Add", tape.op("Mul", square, tape.floats(3)), tape.floats(steep))
    of_gate = tape.op("Mul", gate, tape.op("Sub", tape.floats(1), gate))
    return gate, tape.op("Mul", of_gate, of_inner)


POINTWISE: Mapping[str, Gradient] = {
    "Abs": Gradient(absolute),
    "Clip": Gradient(clip),
    "Elu": Gradient(elu),
    "Erf": Gradient(erf),
    "Exp": Gradient(exp),
    "Gelu": Gradient(gelu),
    "HardSigmoid": Gradient(hard_sigmoid),
    "HardSwish": Gradient(hard_swish),
    "LeakyRelu": Gradient(leaky_relu),
    "Log": Gradient(log),
    "Neg": Gradient(neg),
    "PRelu": Gradient(prelu),
    "Reciprocal": Gradient(reciprocal),
    "Relu": Gradient(relu),
    "Sigmoid": Gradient(sigmoid),
    "Softplus": Gradient(softplus),
    "Sqrt": Gradient(sqrt),
    "Tanh": Gradient(tanh),
}
