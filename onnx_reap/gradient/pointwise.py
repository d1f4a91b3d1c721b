"""Gradients of functions of single entries."""

from __future__ import annotations

import math
from functools import partial, reduce

import onnx

from onnx_reap.gradient.tape import Tape, attributes


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
