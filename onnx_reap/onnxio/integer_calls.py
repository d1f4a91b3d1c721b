"""What operators on integers stand for: the same on real numbers, between (de)quantising."""

from collections.abc import Callable, Mapping
from typing import Any

import onnx

from onnx_reap.onnxio.call_body import Body

Types = Callable[[], Mapping[str, onnx.TypeProto]]

PER_CHANNEL = 13
"""The opset from which on scales may be told for every channel."""


def _real(body: Body, types: Types, first: int, axis: int | None = None) -> str | None:
    """Add the real numbers of an input, which scale and zero point follow; None if unknown.

    Parameters
    ----------
    axis : int, optional
        Of the scales, if there may be several.
    """
    inputs = [str(i) for i in range(first, first + 3) if body.has(i)]
    if _is_one(body, types, first + 1):
        return body("DequantizeLinear", *inputs)
    if axis is None or body.opset < PER_CHANNEL:
        return None
    return body("DequantizeLinear", *inputs, axis=axis)


def _is_one(body: Body, types: Types, index: int) -> bool:
    """Whether an input is known to be a single number."""
    kind = types().get(body.call.input[index])
    shape = None if kind is None else kind.tensor_type.shape
    return shape is not None and all(d.dim_value == 1 for d in shape.dim) and len(shape.dim) < 2


def _bias(body: Body, types: Types, index: int, weight: int) -> list[str]:
    """Add the real numbers of a bias, whose scale is that of the products."""
    if not body.has(index):
        return []
    several = {} if _is_one(body, types, weight + 1) else {"axis": 0}
    return [body("DequantizeLinear", str(index), body("Mul", "1", str(weight + 1)), **several)]


def _integers(body: Body, y: str, scale: int) -> list[str]:
    inputs = [str(i) for i in (scale, scale + 1) if body.has(i)]
    return [body("QuantizeLinear", y, *inputs)]


def _conv(body: Body, types: Types) -> list[str] | None:
    x, weight = _real(body, types, 0), _real(body, types, 3, axis=0)
    if x is None or weight is None:
        return None
    y = body("Conv", x, weight, *_bias(body, types, 8, 3), **body.given)
    return _integers(body, y, 6)


def _gemm(body: Body, types: Types) -> list[str] | None:
    x = _real(body, types, 0)
    weight = _real(body, types, 3, axis=0 if body.given.get("transB") else 1)
    if x is None or weight is None or body.number("alpha", 1.0) != 1:
        return None
    y = body("Gemm", x, weight, *_bias(body, types, 6, 3), **body.given)
    return _integers(body, y, 7) if body.has(7) else [y]


def _matmul(body: Body, types: Types) -> list[str] | None:
    sides = _real(body, types, 0), _real(body, types, 3, axis=-1)
    if sides[0] is None or sides[1] is None:
        return None
    return _integers(body, body("MatMul", sides[0], sides[1]), 6)


def _binary(op: str) -> Callable[[Body, Types], list[str] | None]:
    def define(body: Body, types: Types) -> list[str] | None:
        a, b = _real(body, types, 0), _real(body, types, 3)
        return None if a is None or b is None else _integers(body, body(op, a, b), 6)

    return define


def _unary(op: str, *left_out: str) -> Callable[[Body, Types], list[str] | None]:
    def define(body: Body, types: Types) -> list[str] | None:
        x = _real(body, types, 0)
        if x is None or body.given.get("channels_last"):
            return None
        kept: dict[str, Any] = {n: v for n, v in body.given.items() if n not in left_out}
        return _integers(body, body(op, x, **kept), 3)

    return define


def _concat(body: Body, types: Types) -> list[str] | None:
    parts = [_real(body, types, index) for index in range(2, len(body.call.input), 3)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return _integers(body, body("Concat", *known, axis=body.given["axis"]), 0)


_MICROSOFT = "com.microsoft"
INTEGER_CALLS: Mapping[tuple[str, str], Callable[[Body, Types], list[str] | None]] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (_MICROSOFT, "QGemm"): _gemm,
    (_MICROSOFT, "QLinearAdd"): _binary("Add"),
    (_MICROSOFT, "QLinearAveragePool"): _unary("AveragePool", "channels_last"),
    (_MICROSOFT, "QLinearConcat"): _concat,
    (_MICROSOFT, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool", "channels_last"),
    (_MICROSOFT, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (_MICROSOFT, "QLinearMul"): _binary("Mul"),
    (_MICROSOFT, "QLinearSigmoid"): _unary("Sigmoid"),
}

BIASES: Mapping[tuple[str, str], int | None] = {
    ("", "QLinearConv"): 8,
    ("", "QLinearMatMul"): None,
    (_MICROSOFT, "QGemm"): 6,
}
"""Layers on integers, whose inputs 3 to 5 are the weight, and the input that is the bias."""
