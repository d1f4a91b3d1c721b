"""Draws of the pointwise operators."""

from __future__ import annotations

import numpy as np
import onnx
from fuzz.grower import Grower, UnfitError

# What brings any number into an operator's domain.
_FIRST = {
    **dict.fromkeys(("Acos", "Asin", "Atanh"), ("Sigmoid", -0.5)),
    **dict.fromkeys(("Acosh", "Reciprocal"), ("Softplus", 1.1)),
    **dict.fromkeys(("Log", "Sqrt"), ("Softplus", 0.1)),
    **dict.fromkeys(("Tan", "Sinh", "Cosh", "Exp"), ("Tanh", 0.0)),
}

_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_LOGIC = ("And", "Or", "Xor")
_BITS = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")


def _scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _inside(g: Grower, x: str, first: tuple[str, float]) -> str:
    op, shift = first
    y = g(op, x)
    return g("Add", y, g.constant(_scalar(shift))) if shift else y


def _unary(op: str):
    def make(g: Grower) -> str:
        x = g.tensor()
        return g(op, _inside(g, x, _FIRST[op]) if op in _FIRST else x)

    return make


def _clip(g: Grower) -> str:
    x = g.tensor()
    if g.opset < 11:
        return g("Clip", x, min=-0.5, max=2.0)
    low = g.constant(_scalar(-0.5)) if g.chance(0.7) else ""
    return g("Clip", x, low, g.constant(_scalar(2.0)))


def _dropout(g: Grower) -> object:
    if g.opset < 12:
        return g("Dropout", g.tensor(), ratio=0.5)
    ratio = [g.constant(_scalar(0.5))] if g.chance(0.5) else []
    return g("Dropout", g.tensor(), *ratio)


def _cast_to_int(g: Grower, x: str) -> str:
    tripled = g("Mul", x, g.constant(_scalar(3.3)))
    return g("Cast", tripled, to=onnx.TensorProto.INT32)


def _bools(g: Grower) -> str:
    if any(v.dtype.kind == "b" and v.ndim for v in g.values.values()) and g.chance(0.5):
        return g.tensor(kind="b")
    return compare(g, "Greater")


def _back(g: Grower, y: str) -> str:
    """Other types serve as masks; now and then they stay what they are."""
    return y if g.chance(0.2) else g("Cast", y, to=onnx.TensorProto.FLOAT)


def _on_bools(op: str):
    def make(g: Grower) -> str:
        x = _bools(g)
        if op == "Not":
            return _back(g, g("Not", x))
        y = g.tensor(lambda v: v.shape == g.shape(x), kind="b")
        return _back(g, g(op, x, y))

    return make


def _on_bits(op: str):
    def make(g: Grower) -> str:
        x = _cast_to_int(g, g.tensor())
        if op == "BitwiseNot":
            return _back(g, g(op, x))
        return _back(g, g(op, x, g.constant(np.array(5, np.int32))))

    return make


def _tests(op: str):
    return lambda g: _back(g, g(op, g.tensor()))


def compare(g: Grower, op: str) -> str:
    x = g.tensor()
    return g(op, *_ordered(g, x, _operand(g, x, sign=False)))


def _operand(g: Grower, x: str, *, sign: bool) -> str:
    """Another operand: a constant of some broadcastable shape, or a tensor of some.

    Parameters
    ----------
    sign : bool
        Whether it must be positive.
    """
    shape = g.shape(x)
    rank = len(shape)
    form = g.pick.choice(["scalar", "vector", "vector", "full", "last", "same", "same", "any"])
    if form in ("same", "any"):
        y = g.tensor(lambda v: v.shape == shape if form == "same" else _broadcast(v.shape, shape))
        return _inside(g, y, ("Softplus", 0.5)) if sign else y
    sizes: tuple[int, ...] = ()
    if form == "vector" and rank > 1:
        axis = g.axis(x)
        sizes = tuple(s if a == axis else 1 for a, s in enumerate(shape))
        sizes = sizes[axis:] if g.chance(0.7) else sizes
    elif form == "full":
        lead = 1 if g.open_batch else shape[0]
        sizes = (lead, *shape[1:]) if g.chance(0.5) else shape[1:]
    elif form == "last":
        sizes = shape[-1:] if rank > 1 else ()
        sizes = (g.pick.choice([2, 3]),) if sizes == (1,) else sizes
    return g.positive(*sizes) if sign else g.weight(*sizes, scale=0.8)


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a[1:], b[1:])
    except ValueError:
        return False
    return len(a) == len(b) and a[0] == b[0]


def _ordered(g: Grower, x: str, y: str) -> tuple[str, str]:
    return (x, y) if g.chance(0.7) else (y, x)


def _binary(op: str):
    def make(g: Grower) -> str:
        x = g.tensor()
        return g(op, *_ordered(g, x, _operand(g, x, sign=False)))

    return make


def _divide(g: Grower) -> str:
    x = g.tensor()
    if g.chance(0.2):
        return g("Div", g.positive(1), _inside(g, x, ("Softplus", 0.5)))
    return g("Div", x, _operand(g, x, sign=True))


def _power(g: Grower) -> str:
    x = g.tensor()
    if g.chance(0.5):
        return g("Pow", x, g.constant(_scalar(2.0)))
    return g("Pow", _inside(g, x, ("Softplus", 0.1)), _operand(g, x, sign=True))


def _remainder(g: Grower) -> str:
    x = g.tensor()
    return g("Mod", x, _operand(g, x, sign=True), fmod=1)


def _many(op: str):
    def make(g: Grower) -> str:
        x = g.tensor()
        others = [_operand(g, x, sign=False) for _ in range(g.pick.choice([0, 1, 1, 1, 2]))]
        inputs = [x, *others]
        g.pick.shuffle(inputs)
        return g(op, *inputs)

    return make


def _equal(g: Grower) -> str:
    if g.opset < 11:
        return _back(g, g("Equal", *[_cast_to_int(g, g.tensor())] * 2))
    return _back(g, compare(g, "Equal"))


def _where(g: Grower) -> str:
    x = g.tensor()
    shape = g.shape(x)
    if g.chance(0.5):
        mask = g.constant(g.rng.random(shape[1:]) < 0.6)
    else:
        mask = g("Greater", x, g.constant(_scalar(0.1)))
    return g("Where", mask, *_ordered(g, x, _operand(g, x, sign=False)))


def _prelu(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    shape = g.shape(x)
    slopes = (shape[1], *(1,) * (len(shape) - 2)) if g.chance(0.8) else (1,)
    return g("PRelu", x, g.weight(*slopes, scale=0.3))


def residual_block(g: Grower) -> str:
    """A sum of what has the same shape."""
    x = g.tensor()
    y = g.tensor(lambda v: v.shape == g.shape(x))
    return g("Add", x, y)


_PLAIN = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip

POINTWISE = {
    **{op: _unary(op) for op in _PLAIN},
    "Clip": _clip,
    "Dropout": _dropout,
    **{op: _tests(op) for op in ("IsInf", "IsNaN")},
    **{op: _on_bools(op) for op in (*_LOGIC, "Not")},
    **{op: _on_bits(op) for op in (*_BITS, "BitwiseNot")},
    **{op: (lambda g, op=op: _back(g, compare(g, op))) for op in _COMPARISONS},
    **{op: _binary(op) for op in ("Add", "Mul", "Sub")},
    **{op: _many(op) for op in ("Max", "Min", "Mean", "Sum")},
    "Div": _divide,
    "Pow": _power,
    "Mod": _remainder,
    "Equal": _equal,
    "Where": _where,
    "PRelu": _prelu,
}


def _quantised(g: Grower) -> str:
    """An activation as integers, and back."""
    if g.opset < 10:
        raise UnfitError("no quantised activations before")
    scale = g.constant(np.array(0.05, np.float32)), g.constant(np.array(128, np.uint8))
    return g("DequantizeLinear", g("QuantizeLinear", g.tensor(), *scale), *scale)


QUANTISING = dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantised)
