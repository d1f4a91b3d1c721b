"""MACs of operators: what `inspect` tells is what a recount tells, and what one gets by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import recount
from net import Net

import onnx_reap

BOXED = np.float32(0.1), np.uint8(3)  # a scale and a zero point
MICROSOFT = "com.microsoft"


def bytes_of(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)


def integer(op: str, weight: np.ndarray) -> Callable[[Net], str]:
    """QLinearConv or QLinearMatMul of x."""

    def make(net: Net) -> str:
        x = net("QuantizeLinear", "x", *BOXED)
        return net("DequantizeLinear", net(op, x, *BOXED, weight, *BOXED, *BOXED), *BOXED)

    return make


def recurrent(op: str, gates: int, directions: int = 1) -> Callable[[Net], str]:
    def make(net: Net) -> str:
        w, r = (net.weight(directions, gates * 4, columns) for columns in (5, 4))
        way = "bidirectional" if directions == 2 else "reverse"
        steps = net("Transpose", "x", perm=[1, 0, 2])
        return net(op, steps, w, r, hidden_size=4, direction=way, outputs=2)[0]

    return make


def grouped_queries(net: Net) -> str:
    q, v = (net("MatMul", "x", net.weight(8, width)) for width in (16, 6))
    return net("Attention", q, "x", v, q_num_heads=4, kv_num_heads=2)


def scan(net: Net) -> str:
    net.constant(net.weight(4, 4), "w")
    body = onnx.parser.parse_graph(
        "body (float s, float[N, 4] e) => (float t, float[N, 4] o) {"
        "    t = Identity(s)  o = MatMul(e, w) }"
    )
    steps = net("Transpose", "x", perm=[1, 0, 2])
    return net("Scan", np.float32(0), steps, body=body, num_scan_inputs=1, outputs=2)[1]


def nested(net: Net) -> str:
    """One trip, then two, then three of an inner loop."""
    net.constant(net.weight(4, 4), "w")
    body = onnx.parser.parse_graph(
        "outer (int64 i, bool c, float[N, 5, 4] a) => (bool d, float[N, 5, 4] next) {"
        "    one = Constant<value_int = 1>()  trips = Add(i, one)  d = Identity(c)"
        "    next = Loop<body = inner (int64 j, bool e, float[N, 5, 4] b)"
        "        => (bool f, float[N, 5, 4] g) { f = Identity(e)  g = MatMul(b, w) }"
        "    >(trips, c, a) }"
    )
    return net("Loop", np.array(3), np.array(True), "x", body=body)


def times(op: str, *shapes: tuple[int, ...], **attributes) -> Callable[[Net], str]:
    """A node that reads x and constants of these shapes."""
    return lambda net: net(op, "x", *(net.weight(*shape) for shape in shapes), **attributes)


# Shape of a sample of x, what makes the graph, its MACs per sample by hand
CASES = {
    "Conv": ((3, 6, 6), times("Conv", (8, 3, 3, 3)), 8 * 16 * 27),
    "Conv, grouped": (
        (4, 7, 7),
        times("Conv", (8, 2, 3, 3), group=2, strides=[2, 2], pads=[1] * 4),
        8 * 16 * 18,
    ),
    "Conv, dilated": ((4, 9), times("Conv", (6, 4, 3), dilations=[2]), 6 * 5 * 12),
    "ConvTranspose": (
        (4, 5, 5),
        times("ConvTranspose", (4, 3, 3, 3), group=2, strides=[2, 2]),
        4 * 25 * 27,
    ),
    "Gemm": ((6,), times("Gemm", (5, 6), transB=1), 30),
    "MatMul": ((3, 6), times("MatMul", (6, 5)), 90),
    "MatMul, vector": ((3, 6), times("MatMul", (6,)), 18),
    "MatMul, batched": ((3, 2, 6), times("MatMul", (3, 6, 5)), 3 * 2 * 6 * 5),
    "MatMul, weight in front": ((6, 5), lambda net: net("MatMul", net.weight(7, 6), "x"), 210),
    "MatMul of activations": (
        (6, 5),
        lambda net: net("MatMul", net("Transpose", "x", perm=[0, 2, 1]), "x"),
        150,
    ),
    "MatMul of constants": (
        (3, 4),
        lambda net: net("MatMul", "x", net("MatMul", net.weight(4, 4), net.weight(4, 5))),
        60,
    ),
    "Einsum": ((6, 5), times("Einsum", (5, 7), equation="bij,jk->bik"), 210),
    "Einsum, implicit": ((6, 5), times("Einsum", (5, 7), equation="bij,jk"), 210),
    "Einsum of one": ((6, 5), times("Einsum", equation="bij->bji"), 0),
    "Einsum of activations": (
        (6, 5),
        lambda net: net("Einsum", "x", "x", equation="bij,bkj->bik"),
        180,
    ),
    "LSTM": ((3, 5), recurrent("LSTM", 4), 3 * 16 * (5 + 4)),
    "GRU": ((3, 5), recurrent("GRU", 3, 2), 2 * 3 * 12 * (5 + 4)),
    "RNN": ((3, 5), recurrent("RNN", 1), 3 * 4 * (5 + 4)),
    "Attention": ((2, 3, 4), lambda net: net("Attention", "x", "x", "x"), 2 * 2 * 3 * 3 * 4),
    "Attention, grouped queries": (
        (3, 8),
        grouped_queries,
        3 * 8 * (16 + 6) + 4 * 3 * 3 * (4 + 3),
    ),
    "Scan": ((3, 4), scan, 3 * 16),
    "Loop": ((5, 4), nested, (1 + 2 + 3) * 5 * 16),
    "QLinearMatMul": ((3, 4), integer("QLinearMatMul", bytes_of(4, 5)), 60),
    "QLinearConv": ((3, 4, 4), integer("QLinearConv", bytes_of(5, 3, 3, 3)), 4 * 5 * 27),
    "FusedConv": (
        (3, 4, 4),
        times("FusedConv", (5, 3, 3, 3), activation="Relu", domain=MICROSOFT),
        4 * 5 * 27,
    ),
    "FusedGemm": ((6,), times("FusedGemm", (6, 5), (5,), activation="Relu", domain=MICROSOFT), 30),
    "FusedMatMul": ((6, 5), times("FusedMatMul", (6, 7), transA=1, domain=MICROSOFT), 210),
    "MultiHeadAttention": (
        (3, 8),
        lambda net: net("MultiHeadAttention", "x", "x", "x", num_heads=2, domain=MICROSOFT),
        2 * 3 * 3 * 8,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_count_what_they_multiply(case: str) -> None:
    shape, make, expected = CASES[case]
    net = Net({"x": ("N", *shape)})
    output = make(net)
    net.opset = 23 if case.startswith("Attention") else 17
    model = net.model(output, check=False)
    sample = np.ones((1, *shape), np.float32)
    assert recount.macs(model, {"x": sample}) == expected
    assert onnx_reap.inspect(model, sample.repeat(4, axis=0)).total.macs == expected
