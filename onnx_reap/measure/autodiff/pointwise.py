"""Gradients of functions of single entries."""

import math
from collections.abc import Mapping
from functools import reduce

import onnx

from onnx_reap.measure.autodiff.gradient import Gradient, Step
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value
from onnx_reap.onnxio.quantiser import quantiser_of


def clip(at: Step) -> Value:
    """Gradient of a Clip with any bounds."""
    low, high = [*at.node.input[1:], "", ""][:2]
    # The result tells as much as the input, which nothing else may need.
    inside = [at.y > at.tape.value(low)] if low else []
    inside += [at.y < at.tape.value(high)] if high else []
    # One mask: comparisons are cheap next to casts and products.
    return at.dy * reduce(lambda a, b: a.op("And", b), inside).floats() if inside else at.dy


def hard_swish(at: Step) -> Value:
    """Gradient of a HardSwish."""
    bent = at.x * (at.x.op("Abs") < 3).floats()
    return at.dy * (at.x.op("HardSigmoid", alpha=1 / 6, beta=0.5) + bent / 6)


def gelu(at: Step) -> Value:
    """Gradient of a Gelu, exact or approximated by a Tanh: x times a gate."""
    write = _tanh_gate if at.get("approximate", "none") == "tanh" else _erf_gate
    gate, slope = write(at.x)
    return at.dy * (gate + at.x * slope)


def swish(at: Step) -> Value:
    """Gradient of a Swish: x times a sigmoid."""
    alpha = at.get("alpha", 1.0)
    gate = (at.x * alpha).op("Sigmoid")
    return at.dy * (gate + at.x * (gate * (1 - gate)) * alpha)


def mish(at: Step) -> Value:
    """Gradient of a Mish: x times the tanh of a softplus."""
    gate = at.x.op("Softplus").op("Tanh")
    return at.dy * (gate + at.x * (1 - gate * gate) * at.x.op("Sigmoid"))


def selu(at: Step) -> Value:
    """Gradient of a Selu: below zero, the result is gamma times alpha less than its slope."""
    alpha, gamma = at.get("alpha", 1.67326319217681884765625), at.get("gamma", 1.0507010221481323)
    return at.dy * (_exponential(at.x, alpha) * gamma)


def leaky_relu(at: Step) -> Value:
    """Gradient of a LeakyRelu."""
    alpha = at.get("alpha", 0.01)
    # A Where of numbers, not of tensors, which onnxruntime does slowly.
    positive = (at.y if alpha >= 0 else at.x) > 0
    return at.dy * positive.choose(at.tape.floats(1), at.tape.floats(alpha))


def prelu(at: Step) -> Value:
    """Gradient of a PRelu."""
    slope = at.input(1)
    return at.dy * ((at.x > 0).floats() * (1 - slope) + slope)


def hard_sigmoid(at: Step) -> Value:
    """Gradient of a HardSigmoid."""
    bent = (at.y > 0).op("And", at.y < 1).floats()
    return at.dy * (bent * at.get("alpha", 0.2))


def _exponential(x: Value, alpha: float) -> Value:
    """Write a slope that is alpha times the exponential below zero, and 1 above."""
    below = x.op("Min", x.tape.floats(0)).exp()
    return below if alpha == 1 else below * alpha + (x > 0).floats() * (1 - alpha)


def _erf_gate(x: Value) -> tuple[Value, Value]:
    """Write the share of a normal distribution below x, and its density."""
    gate = ((x * math.sqrt(0.5)).op("Erf") + 1) * 0.5
    return gate, (x * x * -0.5).exp() * math.sqrt(0.5 / math.pi)


def _tanh_gate(x: Value) -> tuple[Value, Value]:
    """Write the sigmoid of a polynomial of x that comes close to that share, and its slope."""
    steep, cubic = math.sqrt(8 / math.pi), 0.044715
    square = x * x * (steep * cubic)
    gate = (x * (square + steep)).op("Sigmoid")
    return gate, gate * (1 - gate) * (square * 3 + steep)


def quantised(at: Step) -> Value:
    """Gradient of a QuantizeLinear: straight through wherever nothing is clipped."""
    q = quantiser_of(at.node, at.tape.constants, at.rank)
    assert q is not None
    low, high = (at.tape.floats(bound) for bound in q.bounds)
    inside = (at.x > low).op("And", at.x < high)
    return at.dy * inside.floats() / at.tape.floats(q.scale)


def dequantised(at: Step) -> Value:
    """Gradient of a DequantizeLinear."""
    q = quantiser_of(at.node, at.tape.constants, at.rank)
    assert q is not None
    return at.dy * at.tape.floats(q.scale)


def _is_known(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    return quantiser_of(node, constants, len(shapes[node.input[0]])) is not None


POINTWISE: Mapping[str, Gradient] = {
    "Abs": Gradient(lambda at: at.dy * at.x.op("Sign")),
    "Celu": Gradient(lambda at: at.dy * _exponential(at.x / at.get("alpha", 1.0), 1)),
    "Clip": Gradient(clip),
    "Cos": Gradient(lambda at: -(at.dy * at.x.op("Sin"))),
    "DequantizeLinear": Gradient(dequantised, fits=_is_known),
    "Elu": Gradient(lambda at: at.dy * _exponential(at.x, at.get("alpha", 1.0))),
    "Erf": Gradient(lambda at: at.dy * ((-(at.x * at.x)).exp() * (2 / math.sqrt(math.pi)))),
    "Exp": Gradient(lambda at: at.dy * at.y),
    "Gelu": Gradient(gelu),
    "HardSigmoid": Gradient(hard_sigmoid),
    "HardSwish": Gradient(hard_swish),
    "LeakyRelu": Gradient(leaky_relu),
    "Log": Gradient(lambda at: at.dy / at.x),
    "Mish": Gradient(mish),
    "Neg": Gradient(lambda at: -at.dy),
    "PRelu": Gradient(prelu),
    "QuantizeLinear": Gradient(quantised, fits=_is_known),
    "Reciprocal": Gradient(lambda at: -(at.dy * (at.y * at.y))),
    "Relu": Gradient(lambda at: at.dy * (at.y > 0).floats()),
    "Selu": Gradient(selu),
    "Sigmoid": Gradient(lambda at: at.dy * (at.y * (1 - at.y))),
    "Sin": Gradient(lambda at: at.dy * at.x.op("Cos")),
    "Softplus": Gradient(lambda at: at.dy * at.x.op("Sigmoid")),
    "Softsign": Gradient(lambda at: at.dy * ((1 - at.y.op("Abs")) * (1 - at.y.op("Abs")))),
    "Sqrt": Gradient(lambda at: at.dy * 0.5 / at.y),
    "Swish": Gradient(swish),
    "Tanh": Gradient(lambda at: at.dy * (1 - at.y * at.y)),
}
