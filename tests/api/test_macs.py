"""MACs of operators: what `inspect` tells is what a recount tells, and what one gets by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as oh
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


def computed(net: Net, *shape: int) -> str:
    """A weight that depends on x."""
    return net("Mul", net.weight(*shape), net("ReduceMean", "x", keepdims=0))


def offsets(net: Net) -> str:
    """Where a kernel of 3 x 3 without padding looks on a map of 4 x 4: 18 channels of 2 x 2."""
    six = net("Concat", *["x"] * 6, axis=1)
    return net("Slice", six, np.array([0, 0]), np.array([2, 2]), np.array([2, 3]))


def quantised(net: Net, weight: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    return net("QuantizeLinear", "x", *BOXED), weight, BOXED[1]


def real(net: Net, integers: str) -> str:
    return net("Cast", integers, to=onnx.TensorProto.FLOAT)


def continued(net: Net) -> str:
    """Two heads, behind a cache of as many keys and values as x gives."""
    past = net("Transpose", net("Reshape", "x", np.array([0, 0, 2, 4])), perm=[0, 2, 1, 3])
    inputs = ("x", "x", "x", "", "", "", past, past)
    return net("MultiHeadAttention", *inputs, num_heads=2, domain=MICROSOFT, outputs=3)[0]


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
    "Attention, keys of the past": (
        (2, 3, 4),
        lambda net: net(
            *("Attention", "x", "x", "x", "", *[net("Concat", "x", "x", axis=2)] * 2), outputs=3
        )[0],
        2 * 2 * 3 * (3 + 6) * 4,
    ),
    "Einsum, ellipsis": ((6, 5), times("Einsum", (5, 7), equation="...j,jk->...k"), 210),
    "Einsum of three": (
        (6, 5),
        times("Einsum", (5, 7), (7, 3), equation="bij,jk,kl->bil"),
        2 * 6 * 5 * 7 * 3,
    ),
    "Gemm of activations": (
        (6,),
        lambda net: net("Gemm", "x", net("Gather", "x", np.array([0] * 5), axis=0), transB=1),
        5 * 6,
    ),
    "ConvTranspose, computed weight": (
        (4, 5, 5),
        lambda net: net("ConvTranspose", "x", computed(net, 4, 3, 3, 3), strides=[2, 2], group=2),
        4 * 25 * 27,
    ),
    "DeformConv": (
        (3, 4, 4),
        lambda net: net("DeformConv", "x", net.weight(5, 3, 3, 3), offsets(net)),
        4 * 5 * 27,
    ),
    "MatMulInteger": (
        (3, 4),
        lambda net: real(net, net("MatMulInteger", *quantised(net, bytes_of(4, 5)))),
        60,
    ),
    "ConvInteger": (
        (3, 4, 4),
        lambda net: real(net, net("ConvInteger", *quantised(net, bytes_of(5, 3, 3, 3)))),
        4 * 5 * 27,
    ),
    "MatMulIntegerToFloat": (
        (3, 4),
        lambda net: net(
            "MatMulIntegerToFloat",
            *(net("QuantizeLinear", "x", *BOXED), bytes_of(4, 5), BOXED[0], BOXED[0], BOXED[1]),
            domain=MICROSOFT,
        ),
        60,
    ),
    "MatMulNBits": (
        (3, 32),
        lambda net: net(
            "MatMulNBits",
            *("x", bytes_of(5, 1, 16), net.weight(5)),
            K=32,
            N=5,
            bits=4,
            block_size=32,
            domain=MICROSOFT,
        ),
        3 * 32 * 5,
    ),
    "Attention by one weight": (
        (3, 8),
        lambda net: net(
            "Attention", "x", net.weight(8, 24), net.weight(24), num_heads=2, domain=MICROSOFT
        ),
        3 * 8 * 24 + 2 * 3 * 3 * 8,
    ),
    "MultiHeadAttention, keys of the past": ((3, 8), continued, 2 * 3 * (3 + 3) * 8),
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


def build(case: str) -> onnx.ModelProto:
    shape, make, _ = CASES[case]
    net = Net({"x": ("N", *shape)})
    output = make(net)
    standard = not any(node.domain for node in net.nodes)
    net.opset = 23 if standard and "Attention" in case else 19 if case == "DeformConv" else 17
    return net.model(output, check=False)


def check(model: onnx.ModelProto, case: str, times: int = 1) -> None:
    shape, _, expected = CASES[case]
    sample = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(1, *shape)
    assert recount.macs(model, {"x": sample}) == times * expected
    data = sample.repeat(4, axis=0)
    assert onnx_reap.inspect(model, data).total.macs == times * expected


@pytest.mark.parametrize("case", CASES)
def test_operators_count_what_they_multiply(case: str) -> None:
    check(build(case), case)


@pytest.mark.parametrize("case", [case for case in CASES if case != "MatMul of constants"])
def test_operators_in_a_body_count_as_often_as_they_run(case: str) -> None:
    model = build(case)
    body = onnx.parser.parse_graph(
        "body (int64 trip, bool on) => (bool still) { still = Identity(on) }"
    )
    body.node.extend(model.graph.node)
    y = model.graph.output[0]
    body.output.append(onnx.ValueInfoProto(name=y.name))
    body.output[-1].type.tensor_type.elem_type = y.type.tensor_type.elem_type
    del model.graph.node[:], model.graph.output[:]
    for name, value in {"rounds": np.array(3), "yes": np.array(True)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    model.graph.node.append(oh.make_node("Loop", ["rounds", "yes"], ["all"], body=body))
    model.graph.output.append(oh.make_tensor_value_info("all", y.type.tensor_type.elem_type, None))
    check(model, case, times=3)
