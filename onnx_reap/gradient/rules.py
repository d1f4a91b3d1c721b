"""How gradients pass through operators: one rule an operator.

A rule takes the node, the gradient at its output and the place of one of its inputs, and writes the
gradient at that input. What has no rule lets no gradient through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from onnx_reap.gradient import layers
from onnx_reap.gradient.tape import Tape

Write = Callable[[Tape, onnx.NodeProto, str, int], str]
Fits = Callable[[onnx.NodeProto, Mapping[str, onnx.TensorProto]], bool]


@dataclass(frozen=True)
class Rule:
    """How to write a gradient.

    Attributes
    ----------
    write : callable
    places : frozenset of int, optional
        Inputs whose gradient can be written; None for all.
    constant : tuple of int
        Inputs that must be constants of the part.
    fits : callable, optional
        Whether the rule covers a node, from it and the part's constants.
    splits : bool
        Whether the node has several results of one input: the rule is then given the place of the
        result that the gradient is at.
    """

    write: Write
    places: frozenset[int] | None = frozenset({0})
    constant: tuple[int, ...] = ()
    fits: Fits | None = None
    splits: bool = False

    def covers(self, place: int) -> bool:
        """Whether the gradient at this input can be written."""
        return self.places is None or place in self.places


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(onnx.helper.get_attribute_value(attribute))
    return default


def _same(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    return dy


def _reshape(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    return tape.like(dy, node.input[0])


def _transpose(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    rank = len(tape.shapes[node.input[0]])
    given = [list(a.ints) for a in node.attribute if a.name == "perm"]
    perm = given[0] if given else list(range(rank))[::-1]
    return tape.op("Transpose", dy, perm=[perm.index(axis) for axis in range(rank)])


def _concat(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    axis = int(_attribute(node, "axis", 0)) % len(tape.shapes[node.output[0]])
    at, end = tape.ints([axis]), tape.ints([axis + 1])
    sizes = [tape.op("Slice", tape.op("Shape", x), at, end) for x in node.input[: place + 1]]
    ends = [tape.ints([0])]
    for size in sizes:
        ends.append(tape.op("Add", ends[-1], size))
    return tape.op("Slice", dy, ends[-2], ends[-1], at)


def _batch_norm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    gamma, variance = tape.values(node.input[1]), tape.values(node.input[4])
    scale = gamma / (variance + _attribute(node, "epsilon", 1e-5)) ** 0.5
    rank = len(tape.shapes[node.input[0]])
    return tape.op("Mul", dy, tape.floats(scale.reshape(-1, *[1] * (rank - 2))))


def _relu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    return tape.where(tape.op("Greater", node.output[0], tape.floats(0)), dy)


def _clip(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    x, bounds = node.input[0], [*node.input[1:], "", ""]
    for comparison, bound in zip(("Greater", "Less"), bounds, strict=False):
        if bound:
            dy = tape.where(tape.op(comparison, x, bound), dy)
    return dy


def _leaky_relu(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    small = tape.op("Mul", dy, tape.floats(_attribute(node, "alpha", 0.01)))
    return tape.op("Where", tape.op("Greater", node.input[0], tape.floats(0)), dy, small)


def _sigmoid(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    y = node.output[0]
    slope = tape.op("Mul", y, tape.op("Sub", tape.floats(1), y))
    return tape.op("Mul", dy, slope)


def _tanh(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    y = node.output[0]
    return tape.op("Mul", dy, tape.op("Sub", tape.floats(1), tape.op("Mul", y, y)))


def _hard_sigmoid(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    y, slope = node.output[0], tape.floats(_attribute(node, "alpha", 0.2))
    above = tape.where(tape.op("Greater", y, tape.floats(0)), tape.op("Mul", dy, slope))
    return tape.where(tape.op("Less", y, tape.floats(1)), above)


def _hard_swish(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    x = node.input[0]
    inner = tape.op("Add", tape.op("Div", x, tape.floats(3)), tape.floats(0.5))
    high = tape.op("Greater", x, tape.floats(3))
    slope = tape.op("Where", high, tape.floats(1), inner)
    above = tape.op("Greater", x, tape.floats(-3))
    return tape.where(above, tape.op("Mul", dy, slope))


def _erf(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    x = node.input[0]
    bell = tape.op("Exp", tape.op("Neg", tape.op("Mul", x, x)))
    return tape.op("Mul", dy, tape.op("Mul", bell, tape.floats(2 / math.sqrt(math.pi))))


def _mean(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """GlobalAveragePool: every entry has an equal share."""
    x = node.input[0]
    share = tape.op("Div", dy, tape.floats(math.prod(tape.shapes[x][2:])))
    return tape.op("Expand", share, tape.op("Shape", x))


def _add(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    return tape.folded(dy, node.output[0], node.input[place])


def _sub(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    signed = tape.op("Neg", dy) if place else dy
    return tape.folded(signed, node.output[0], node.input[place])


def _mul(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    product = tape.op("Mul", dy, node.input[1 - place])
    return tape.folded(product, node.output[0], node.input[place])


def _div(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    quotient = tape.op("Div", dy, node.input[1])
    return tape.folded(quotient, node.output[0], node.input[0])


_ALL = None
_WEIGHTED = frozenset({0, 1, 2})

RULES: Mapping[str, Rule] = {
    "Add": Rule(_add, _ALL),
    "BatchNormalization": Rule(_batch_norm, constant=(1, 4)),
    "Clip": Rule(_clip),
    "Concat": Rule(_concat, _ALL),
    "Conv": Rule(layers.conv, _WEIGHTED),
    "ConvTranspose": Rule(layers.conv_transpose),
    "Div": Rule(_div),
    "Dropout": Rule(_same),
    "Erf": Rule(_erf),
    "Flatten": Rule(_reshape),
    "Gemm": Rule(layers.gemm, _WEIGHTED),
    "GlobalAveragePool": Rule(_mean),
    "HardSigmoid": Rule(_hard_sigmoid),
    "HardSwish": Rule(_hard_swish),
    "Identity": Rule(_same),
    "LeakyRelu": Rule(_leaky_relu),
    "MatMul": Rule(layers.matmul, frozenset({0, 1})),
    "Mul": Rule(_mul, _ALL),
    "Relu": Rule(_relu),
    "Reshape": Rule(_reshape),
    "Sigmoid": Rule(_sigmoid),
    "Squeeze": Rule(_reshape),
    "Sub": Rule(_sub, _ALL),
    "Sum": Rule(_add, _ALL),
    "Tanh": Rule(_tanh),
    "Transpose": Rule(_transpose),
    "Unsqueeze": Rule(_reshape),
}
