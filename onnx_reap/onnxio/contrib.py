"""What the operators of onnxruntime's optimizer stand for, in ONNX's own operators."""

import math
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import FunctionProto, NodeProto, TensorProto

from onnx_reap.onnxio.call_body import Body
from onnx_reap.onnxio.integer_calls import INTEGER_CALLS

Types = Callable[[], Mapping[str, onnx.TypeProto]]
Definition = Callable[[Body, Types], list[str] | None]

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_FUSED = {  # activations that are fused into layers, and the names of their parameters
    "Clip": (),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}


def _activated(body: Body, x: str, parameters: list[float]) -> str | None:
    """Add the activation that the call names; None if it is an unknown one."""
    name = body.text("activation")
    if name not in _FUSED:
        return None
    if name == "Clip":
        return body("Clip", x, *parameters)
    return body(name, x, **dict(zip(_FUSED[name], parameters, strict=False)))


def _fused_conv(body: Body, types: Types) -> list[str] | None:
    kept = {name: body.given[name] for name in _CONV if name in body.given}
    inputs = ["0", "1", *(["2"] if body.has(2) else [])]
    x = body.shifted(body("Conv", *inputs, **kept), 3)
    y = _activated(body, x, list(body.given.get("activation_params", [])))
    return None if y is None else [y]


def _fused_gemm(body: Body, types: Types) -> list[str] | None:
    kept = {n: body.given[n] for n in ("alpha", "beta", "transA", "transB") if n in body.given}
    x = body("Gemm", *(str(i) for i in range(len(body.call.input)) if body.has(i)), **kept)
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    y = _activated(body, x, [body.given[name] for name in names if name in body.given])
    return None if y is None else [y]


def _fused_matmul(body: Body, types: Types) -> list[str] | None:
    if body.given.get("transBatchA") or body.given.get("transBatchB"):
        return None
    sides = []
    for index, name in enumerate(("transA", "transB")):
        side = str(index)
        if body.given.get(name):
            rank = _rank(types, body.call.input[index])
            if rank is None or rank < 2:
                return None
            side = body("Transpose", side, perm=[*range(rank - 2), rank - 1, rank - 2])
        sides.append(side)
    y, alpha = body("MatMul", *sides), body.number("alpha", 1.0)
    return [y if alpha == 1 else body("Mul", y, alpha)]


def _rank(types: Types, name: str) -> int | None:
    kind = types().get(name)
    known = kind is not None and kind.tensor_type.HasField("shape")
    return len(kind.tensor_type.shape.dim) if kind is not None and known else None


def _gelu(body: Body, types: Types) -> list[str]:
    return [body.gelu("0")]


def _bias_gelu(body: Body, types: Types) -> list[str]:
    return [body.gelu(body("Add", "0", "1"))]


def _fast_gelu(body: Body, types: Types) -> list[str]:
    x = body.shifted("0", 1)
    cube = body("Mul", body("Mul", body("Mul", x, x), x), 0.044715)
    gate = body("Tanh", body("Mul", body("Add", x, cube), math.sqrt(2 / math.pi)))
    return [body("Mul", body("Mul", x, body("Add", gate, 1.0)), 0.5)]


def _quick_gelu(body: Body, types: Types) -> list[str]:
    gate = body("Sigmoid", body("Mul", "0", body.number("alpha", 1.702)))
    return [body("Mul", "0", gate)]


def _skip_layer_norm(body: Body, types: Types) -> list[str] | None:
    if any(body.call.output[1:3]):
        return None  # mean and deviation, which only training asks for
    x = body.shifted(body("Add", "0", "1"), 4)
    parameters = ["2", *(["3"] if body.has(3) else [])]
    epsilon = body.number("epsilon", 1e-12)
    y = body("LayerNormalization", x, *parameters, axis=-1, epsilon=epsilon)
    return [y, "", "", x]


def _skip_rms_norm(body: Body, types: Types) -> list[str] | None:
    if any(body.call.output[1:3]):
        return None
    x = body.shifted(body("Add", "0", "1"), 3)
    return [_rms(body, x, "2"), "", "", x]


def _rms_norm(body: Body, types: Types) -> list[str] | None:
    last = body.given.get("axis", -1) == -1 and not any(body.call.output[1:])
    return [_rms(body, "0", "1")] if last else None


def _rms(body: Body, x: str, scale: str) -> str:
    """Divide by the root of the mean square along the last axis."""
    square = body("Mul", x, x)
    if body.opset < 18:
        mean = body("ReduceMean", square, axes=[-1], keepdims=1)
    else:
        mean = body("ReduceMean", square, body.integers(-1), keepdims=1)
    root = body("Sqrt", body("Add", mean, body.number("epsilon", 1e-5)))
    return body("Mul", body("Div", x, root), scale)


def _multi_head_attention(body: Body, types: Types) -> list[str] | None:
    """Attention of separate queries, keys and values without masks of paddings and caches."""
    extra = [i for i in range(3, len(body.call.input)) if body.has(i) and i not in (3, 5)]
    separate = body.has(1) and body.has(2) and _rank(types, body.call.input[1]) == 3
    width = _last(types, body.call.input[0])
    if extra or not separate or width is None or _is_beyond(body):
        return None
    sides = ["0", "1", "2"]
    if body.has(3):
        if _last(types, body.call.input[2]) != width:
            return None
        biases = body("Reshape", "3", body.integers(3, -1))
        rows = [body("Gather", biases, _index(body, i), axis=0) for i in range(3)]
        sides = [body("Add", x, row) for x, row in zip(sides, rows, strict=True)]
    return [_attended(body, sides, width, lambda scores: body.shifted(scores, 5))]


def _self_attention(body: Body, types: Types) -> list[str] | None:
    """Attention that makes queries, keys and values by one weight, without a cache."""
    columns = _last(types, body.call.input[1])
    masked = body.has(3)
    if masked and _rank(types, body.call.input[3]) != 2:
        return None  # lengths, or masks that are not those of keys alone
    if columns is None or body.has(4) or body.has(6) or body.opset < 13 or _is_beyond(body):
        return None
    sizes = body.given.get("qkv_hidden_sizes") or [columns // 3] * 3
    sides = body.split(body.shifted(body("MatMul", "0", "1"), 2), sizes)

    def shifted(scores: str) -> str:
        if masked:
            keys = body("Reshape", "3", body.integers(0, 1, 1, -1))
            seen = body("Cast", keys, to=TensorProto.BOOL)
            away = body.number("mask_filter_value", -10000.0)
            scores = body("Add", scores, body("Where", seen, 0.0, away))
        return body.shifted(scores, 5)

    return [_attended(body, sides, sizes[0], shifted)]


def _is_beyond(body: Body) -> bool:
    """Whether a call asks for more than attention of all places to all places."""
    asked = (body.given.get(name) for name in ("unidirectional", "do_rotary"))
    return any(asked) or any(body.call.output[1:])


def _attended(body: Body, sides: Sequence[str], width: int, shifted: Callable[[str], str]) -> str:
    """Add attention of queries, keys and values; `shifted` adds what comes to the scores."""
    heads = int(body.given["num_heads"])
    split = [body("Reshape", x, body.integers(0, 0, heads, -1)) for x in sides]
    orders = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    q, k, v = (body("Transpose", x, perm=p) for x, p in zip(split, orders, strict=True))
    scale = body.number("scale", 0.0) or (width / heads) ** -0.5
    scores = shifted(body("Mul", body("MatMul", q, k), scale))
    mixed = body("MatMul", body("Softmax", scores, axis=-1), v)
    joined = body("Transpose", mixed, perm=[0, 2, 1, 3])
    return body("Reshape", joined, body.integers(0, 0, -1))


def _index(body: Body, value: int) -> str:
    return body("Constant", value_int=value)


def _last(types: Types, name: str) -> int | None:
    if not _rank(types, name):
        return None
    last = types()[name].tensor_type.shape.dim[-1]
    return int(last.dim_value) if last.HasField("dim_value") else None


_MICROSOFT = "com.microsoft"
_DEFINITIONS: Mapping[tuple[str, str], Definition] = {
    **INTEGER_CALLS,
    (_MICROSOFT, "Attention"): _self_attention,
    (_MICROSOFT, "BiasGelu"): _bias_gelu,
    (_MICROSOFT, "FastGelu"): _fast_gelu,
    (_MICROSOFT, "FusedConv"): _fused_conv,
    (_MICROSOFT, "FusedGemm"): _fused_gemm,
    (_MICROSOFT, "FusedMatMul"): _fused_matmul,
    (_MICROSOFT, "Gelu"): _gelu,
    (_MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
    (_MICROSOFT, "QuickGelu"): _quick_gelu,
    (_MICROSOFT, "SkipLayerNormalization"): _skip_layer_norm,
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
    ("", "SimplifiedLayerNormalization"): _rms_norm,
}


def definition(call: NodeProto, opset: int, types: Types) -> FunctionProto | None:
    """Return what a call of such an operator stands for; None if that isn't known."""
    define = _DEFINITIONS.get((call.domain, call.op_type))
    if define is None:
        return None
    try:
        body = Body(call, opset, types)
        results = define(body, types)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None  # a call without what it must have, of which onnxruntime says what it is
    if results is None:
        return None
    inputs = [str(index) for index in range(len(call.input))]
    function = FunctionProto(domain=call.domain, name=call.op_type, input=inputs, output=results)
    function.node.extend(body.nodes)
    return function
