"""The MACs and output errors of the report are those that independent code counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
import recount
from net import Net, sandwich
from quantised import quantised, residual
from recount import Feed

import onnx_reap

SHIPPED = Path(__file__).parents[2] / "models"
SAMPLES = 32


def chain() -> onnx.ModelProto:
    net = Net({"x": ("N", 3, 6, 6)})
    return net.model(net.head(net.block(net.block("x", 3, 16), 16, 16), 16, 5))


def shipped() -> onnx.ModelProto:
    return onnx.load(SHIPPED / "fashion_resnet.onnx")


def depthwise() -> onnx.ModelProto:
    def middle(net: Net, y: str) -> str:
        wide = net.conv(net.block(y, 16, 16, group=16, strides=[2, 2]), 16, 32, 1)
        return net.conv(wide, 32, 64, group=32)

    return sandwich(middle, channels=16, out=64)


def grouped() -> onnx.ModelProto:
    return sandwich(
        lambda net, y: net.block(net.block(y, 16, 32, group=4), 32, 16, dilations=[2, 2]),
        channels=16,
    )


def transposed() -> onnx.ModelProto:
    def middle(net: Net, y: str) -> str:
        up = net("ConvTranspose", y, net.weight(16, 8, 3, 3), strides=[2, 2], group=2, name="up")
        return net("Relu", up)

    return sandwich(middle, channels=16)


def projections(net: Net, x: str, *widths: int) -> list[str]:
    return [net("MatMul", x, net.weight(16, width, scale=0.4)) for width in widths]


def transformer(attend: Callable[[Net, str], str]) -> onnx.ModelProto:
    """Tokens -> two heads of attention, added -> an MLP, added -> five values each."""
    net = Net({"x": ("N", 7, 16)}, opset=23)
    x = net("Add", net("MatMul", attend(net, "x"), net.weight(16, 16, scale=0.25)), "x")
    hidden = net("Relu", net("MatMul", x, net.weight(16, 32, scale=0.25)))
    x = net("Add", net("MatMul", hidden, net.weight(32, 16, scale=0.2)), x)
    return net.model(net("MatMul", x, net.weight(16, 5, scale=0.25)))


def products() -> onnx.ModelProto:
    def attend(net: Net, x: str) -> str:
        q, k, v = (
            net("Transpose", net("Reshape", y, np.array([0, 0, 2, 8])), perm=perm)
            for y, perm in zip(
                projections(net, x, 16, 16, 16),
                ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
                strict=True,
            )
        )
        heads = net("MatMul", net("Softmax", net("MatMul", q, k)), v)
        return net("Reshape", net("Transpose", heads, perm=[0, 2, 1, 3]), np.array([0, 0, 16]))

    return transformer(attend)


def fused() -> onnx.ModelProto:
    def attend(net: Net, x: str) -> str:
        q, k, v = projections(net, x, 16, 8, 8)
        return net("Attention", q, k, v, q_num_heads=4, kv_num_heads=2)

    return transformer(attend)


def einsums() -> onnx.ModelProto:
    def attend(net: Net, x: str) -> str:
        q, k, v = (
            net("Reshape", y, np.array([0, 0, 2, 8])) for y in projections(net, x, *[16] * 3)
        )
        scores = net("Softmax", net("Einsum", q, k, equation="bqhd,bkhd->bhqk"))
        mixed = net("Einsum", scores, v, equation="b h q k, b k h d -> b q h d")
        return net("Reshape", mixed, np.array([0, 0, 16]))

    return transformer(attend)


def recurrent() -> onnx.ModelProto:
    net = Net({"x": ("N", 6, 7)})
    x = net("Transpose", net("Relu", net("MatMul", "x", net.weight(7, 16))), perm=[1, 0, 2])
    weights = [net.weight(2, 4 * 12, fan, scale=0.3) for fan in (16, 12)]
    made = net("LSTM", x, *weights, outputs=3, hidden_size=12, direction="bidirectional")
    last = net("Reshape", net("Transpose", made[1], perm=[1, 0, 2]), np.array([0, 24]))
    weights = [net.weight(1, 3 * 8, fan) for fan in (7, 8)]
    constant = net("GRU", np.ones((3, 1, 7), np.float32), *weights, hidden_size=8)  # not run's work
    y = net("Gemm", last, net.weight(24, 5))
    return net.model(net("Add", y, net("ReduceMean", constant, keepdims=0)))


BODY = """body (int64 trip, bool going, float[N, 16] h) => (bool still, float[N, 16] next) {
    wide = MatMul(h, w)
    positive = Relu(wide)
    next = MatMul(positive, v)
    still = Identity(going)
}"""
THEN = "then () => (float[N, 16] yes) { yes = MatMul(looped, u) }"
ELSE = "else () => (float[N, 16] no) { no = Neg(looped) }"


def looping() -> onnx.ModelProto:
    """Four trips of two layers, and one layer in a branch."""
    net = Net({"x": ("N", 3, 6, 6)}, opset=16)
    x = net.head(net.block("x", 3, 16), 16, 16)
    for name, shape in {"w": (16, 32), "v": (32, 16), "u": (16, 16)}.items():
        net.constant(net.weight(*shape, scale=0.2), name)
    body, yes, no = (onnx.parser.parse_graph(text) for text in (BODY, THEN, ELSE))
    net("Loop", np.array(4), np.array(True), x, outputs=["looped"], body=body)
    condition = net("Equal", net("Size", net("Shape", "x")), np.array(4))
    y = net("If", condition, then_branch=yes, else_branch=no)
    return net.model(net("Gemm", y, net.weight(16, 5)))


def integers() -> onnx.ModelProto:
    return quantised(residual())


def two_inputs() -> onnx.ModelProto:
    net = Net({"x": ("N", 3, 6, 6), "z": ("N", 9)})
    gate = net("Unsqueeze", net("Sigmoid", net.gemm("z", 9, 16)), np.array([2, 3]))
    y = net("Mul", net.block("x", 3, 16), gate)
    return net.model(
        net.head(net.block(y, 16, 16), 16, 5), net.gemm(net("Relu", net.gemm("z", 9, 32)), 32, 3)
    )


def fixed() -> onnx.ModelProto:
    net = Net({"x": (4, 3, 6, 6)})
    return net.model(net.head(net.block(net.block("x", 3, 16), 16, 16), 16, 5))


def graph_network() -> onnx.ModelProto:
    """Nodes with features, and the matrix of what they are to each other: no batch."""
    net = Net({"x": ("V", 8), "edges": ("V", "V")})
    y = "x"
    for inputs, outputs in ((8, 16), (16, 32)):
        y = net("Relu", net("MatMul", net("MatMul", "edges", y), net.weight(inputs, outputs)))
    return net.model(net("MatMul", y, net.weight(32, 3)))


MODELS = (
    *(chain, shipped, depthwise, grouped, transposed, products, fused, einsums, recurrent),
    *(looping, integers, two_inputs, fixed, graph_network),
)


def draw(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Samples, along the first axis; those of the shipped model are images, or whole graphs."""
    with np.load(SHIPPED / "fashion_calib.npz") as images:
        shown = images["input"][:SAMPLES].astype(np.float32)
    rng = np.random.default_rng(1)
    data = {}
    for each in model.graph.input:
        first, *shape = (dim.dim_value or 9 for dim in each.type.tensor_type.shape.dim)
        shape = shape if has_batches(model) else [first, *shape]
        noise = rng.standard_normal((SAMPLES, *shape)).astype(np.float32)
        data[each.name] = shown if shape == [1, 28, 28] else noise
    return data


def has_batches(model: onnx.ModelProto) -> bool:
    return "edges" not in {each.name for each in model.graph.input}


def runs(model: onnx.ModelProto, data: Feed) -> tuple[list[dict[str, np.ndarray]], int]:
    """Feeds of a run each, and how many samples one holds: as few as the model takes."""
    if not has_batches(model):
        return [{name: array[row] for name, array in data.items()} for row in range(SAMPLES)], 1
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    return [
        {name: array[start : start + size] for name, array in data.items()}
        for start in range(0, SAMPLES, size)
    ], size


def errors(
    before: onnx.ModelProto, after: onnx.ModelProto, data: Feed, samples: Iterable[int]
) -> dict[str, float]:
    """Output errors on some samples, recounted."""
    feeds, _ = runs(before, data)
    rows = sorted(samples)
    original, pruned = (recount.outputs(model, feeds) for model in (before, after))
    return {
        name: recount.relative_error(
            *(each[name].reshape(SAMPLES, -1)[rows] for each in (original, pruned))
        )
        for name in original
    }


@pytest.fixture(scope="module")
def held_out() -> set[int]:
    """Samples that runs of so many keep aside: the only choice that gives the reported error."""
    model = chain()
    data = draw(model)
    result = onnx_reap.reap(model, data, target_macs=0.5)
    ((name, told),) = result.report.held_out.output_error.items()
    before, after = (recount.outputs(each, [data])[name] for each in (model, result.model))
    (found,) = (
        set(rows)
        for rows in combinations(range(SAMPLES), result.report.held_out.samples)
        if np.isclose(recount.relative_error(before[[*rows]], after[[*rows]]), told, rtol=1e-5)
    )
    return found


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_report_tells_what_is_recounted(
    build: Callable[[], onnx.ModelProto], held_out: set[int], tmp_path: Path
) -> None:
    model = build()
    data = draw(model)
    result = onnx_reap.reap(model, data, target_macs=0.7)
    result.save(tmp_path / "pruned.onnx")
    pruned = onnx.load(tmp_path / "pruned.onnx")
    report = result.report

    (feed, *_), size = runs(model, data)
    assert report.before.macs * size == recount.macs(model, feed)
    assert report.after.macs * size == recount.macs(pruned, feed)
    assert report.after.macs <= 0.7 * report.before.macs

    assert report.held_out.samples == len(held_out)
    assert report.fitted.samples == SAMPLES - len(held_out)
    for told, samples in (
        (report.held_out, held_out),
        (report.fitted, set(range(SAMPLES)) - held_out),
    ):
        # sums of float32 in another order; outputs that lost nothing differ by rounding alone
        recounted = errors(model, pruned, data, samples)
        assert told.output_error == pytest.approx(recounted, rel=1e-4, abs=1e-9)
