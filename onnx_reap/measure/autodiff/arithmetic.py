"""Gradients of operators with several operands, repeated along axes where they have size one."""

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import EVERY, Gradient
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape


def add(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of an Add, a Sum or an Expand."""
    return tape.folded(dy, node.output[0], node.input[place])


def sub(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Sub."""
    signed = tape.op("Neg", dy) if place else dy
    return tape.folded(signed, node.output[0], node.input[place])


def mul(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Mul."""
    product = tape.op("Mul", dy, node.input[1 - place])
    return tape.folded(product, node.output[0], node.input[place])


def div(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Div."""
    quotient = tape.op("Div", dy, node.input[1])
    if place:
        quotient = tape.op("Neg", tape.op("Mul", quotient, node.output[0]))
    return tape.folded(quotient, node.output[0], node.input[place])


def power(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Pow with constant exponents."""
    x, exponents = node.input[0], tape.values(node.input[1]).astype(np.float32)
    less = x if (exponents == 2).all() else tape.op("Pow", x, tape.floats(exponents - 1))
    product = tape.op("Mul", tape.op("Mul", dy, tape.floats(exponents)), less)
    return tape.folded(product, node.output[0], x)


def has_no_zero(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether the exponents of a Pow can be lowered by one at zero."""
    return bool(constants[node.input[1]].all())


def extreme(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Max or Min of two; none where they are equal, as for a Relu."""
    comparison = "Greater" if node.op_type == "Max" else "Less"
    chosen = tape.op(comparison, node.input[place], node.input[1 - place])
    return tape.folded(tape.where(chosen, dy), node.output[0], node.input[place])


def has_two_operands(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether `extreme` covers a node."""
    return len(node.input) == len(set(node.input)) == 2


def where(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Where towards what it chooses from."""
    chosen = node.input[0] if place == 1 else tape.op("Not", node.input[0])
    return tape.folded(tape.where(chosen, dy), node.output[0], node.input[place])


ARITHMETIC: Mapping[str, Gradient] = {
    "Add": Gradient(add, EVERY),
    "Div": Gradient(div, EVERY),
    "Expand": Gradient(add),
    "Max": Gradient(extreme, EVERY, fits=has_two_operands),
    "Min": Gradient(extreme, EVERY, fits=has_two_operands),
    "Mul": Gradient(mul, EVERY),
    "Pow": Gradient(power, constant=(1,), fits=has_no_zero),
    "Sub": Gradient(sub, EVERY),
    "Sum": Gradient(add, EVERY),
    "Where": Gradient(where, frozenset({1, 2})),
}
