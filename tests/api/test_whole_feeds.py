"""Models without a batch axis: graphs, sequences with the time first, feeds of differing sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
import pytest
from net import Net

import onnx_reap
from onnx_reap.data.feeds import NOTE
from onnx_reap.graph.batches import MIXED

HIDDEN = 24


def graph_net(edges: tuple = (2, "num_edges")) -> onnx.ModelProto:
    """Make a network that sends messages along edges, (2, E) or (E, 2)."""
    n = Net({"nodes": ("num_nodes", 6), "edges": edges}, opset=18)
    axis = edges.index(2)
    places = n.node("Cast", "edges", to=onnx.TensorProto.INT64)
    source, target = (n.node("Gather", places, np.array(k), axis=axis) for k in (0, 1))
    x = n.node("Relu", n.node("MatMul", "nodes", n.weight(6, HIDDEN)))
    messages = n.node("Gather", x, source, axis=0)
    messages = n.node("Relu", n.node("MatMul", messages, n.weight(HIDDEN, HIDDEN)))
    where = n.node("Unsqueeze", target, np.array([1]))
    where = n.node("Expand", where, n.node("Shape", messages))
    nothing = n.node("Sub", x, x)
    sums = n.node("ScatterElements", nothing, where, messages, axis=0, reduction="add")
    x = n.node("Relu", n.node("MatMul", n.node("Add", x, sums), n.weight(HIDDEN, HIDDEN)))
    return n.model(n.node("MatMul", x, n.weight(HIDDEN, 3)))


def graph(rng: np.random.Generator, nodes: int, edges: int) -> dict[str, np.ndarray]:
    return {
        "nodes": rng.normal(size=(nodes, 6)).astype(np.float32),
        "edges": rng.integers(0, nodes, (2, edges)).astype(np.float32),
    }


def graphs(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [graph(rng, *rng.integers((4, 10), (20, 60)).tolist()) for _ in range(count)]


def error(model: onnx.ModelProto, pruned: onnx.ModelProto, feeds) -> float:
    """Return the squared error of the first output, relative to its variance about its mean."""
    runs = [ort.InferenceSession(each.SerializeToString()) for each in (model, pruned)]
    pairs = [[active.run(None, feed)[0] for active in runs] for feed in feeds]
    want, got = (np.concatenate([x.reshape(-1) for x in each]) for each in zip(*pairs, strict=True))
    return float(np.square(want - got).sum() / np.square(want - want.mean()).sum())


@pytest.mark.parametrize("edges_first", [False, True])
def test_graphs_of_different_sizes(edges_first):
    model = graph_net(("num_edges", 2) if edges_first else (2, "num_edges"))
    data = graphs(60)
    fresh = graphs(30, seed=1)
    for each in (*data, *fresh) if edges_first else ():
        each["edges"] = np.ascontiguousarray(each["edges"].T)
    refitted = onnx_reap.reap(model, data, target_macs=0.5)
    sliced = onnx_reap.reap(model, data, target_macs=0.5, refit=False)
    assert refitted.report.after.macs <= 0.5 * refitted.report.before.macs
    assert NOTE in refitted.report.notes
    assert error(model, refitted.model, fresh) < 0.5 * error(model, sliced.model, fresh)
    held_out = refitted.report.held_out
    assert held_out is not None
    assert held_out.samples == 6


def test_costs_are_those_of_the_largest_graph():
    data = [graph(np.random.default_rng(n), n, 3 * n) for n in range(4, 34)]
    layers = 33 * (6 * HIDDEN + HIDDEN**2 + 3 * HIDDEN) + 99 * HIDDEN**2
    assert onnx_reap.inspect(graph_net(), data).total.macs == layers


def test_one_graph_is_enough_to_prune():
    data = graph(np.random.default_rng(0), 300, 900)
    result = onnx_reap.reap(graph_net(), data, target_macs=0.6)
    assert result.report.after.macs <= 0.6 * result.report.before.macs


@pytest.mark.parametrize("allocation", ["local", "pro"])
def test_every_way_to_choose_takes_whole_feeds(allocation):
    for budget in ({"max_drop": 0.3}, {"target_latency": "99x"}, {"ratio": 0.3}):
        onnx_reap.reap(graph_net(), graphs(24), allocation=allocation, joint_refit=1, **budget)
    assert len(onnx_reap.sweep(graph_net(), graphs(24), targets=[0.7, 0.5])) == 2


def test_a_stack_of_graphs(tmp_path):
    rng = np.random.default_rng(0)
    feeds = [graph(rng, 8, 20) for _ in range(24)]
    path = tmp_path / "graphs.npz"
    np.savez(path, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    one, other = (onnx_reap.reap(graph_net(), data, target_macs=0.5) for data in (feeds, path))
    assert one.model.SerializeToString() == other.model.SerializeToString()


def test_named_shapes_are_taken_as_given(tmp_path):
    shapes = {"nodes": (12, 6), "edges": (2, 30)}
    result = onnx_reap.reap(graph_net(), target_macs=0.5, input_shapes=shapes)
    layers = 12 * (6 * HIDDEN + HIDDEN**2 + 3 * HIDDEN) + 30 * HIDDEN**2
    assert result.report.before.macs == layers
    assert any("drawn uniformly: edges (0 to 11)" in note for note in result.report.notes)
    onnx_reap.cut(graph_net(), result.plan)
    assert onnx_reap.inspect(graph_net(), input_shapes=shapes).total.macs == layers


def lstm(first: int | str) -> onnx.ModelProto:
    """Make a recurrent network (time, batch, channels) with dense layers behind."""
    n = Net({"x": (first, "batch", 6)})
    weights = n.weight(1, 32, 6, scale=0.5), n.weight(1, 32, 8, scale=0.5)
    y = n.node("Squeeze", n.node("LSTM", "x", *weights, hidden_size=8, outputs=3)[0], np.array([1]))
    hidden = n.node("Relu", n.node("MatMul", y, n.weight(8, 32)))
    return n.model(n.node("MatMul", hidden, n.weight(32, 4)))


@pytest.mark.parametrize("first", ["time", 15])
def test_sequences_given_one_by_one_count_as_samples(first):
    x = np.random.default_rng(0).normal(size=(64, 15, 1, 6)).astype(np.float32)
    for data in ([{"x": sequence} for sequence in x], x):
        result = onnx_reap.reap(lstm(first), data, target_macs=0.9)
        assert result.report.held_out.samples == 6
        assert NOTE in result.report.notes
    result = onnx_reap.reap(lstm(first), np.moveaxis(x[:, :, 0], 0, 1), target_macs=0.9)
    assert MIXED in result.report.notes


def test_sequences_of_different_lengths():
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(n, 1, 6)).astype(np.float32) for n in range(5, 35)]
    result = onnx_reap.reap(lstm("time"), data, target_macs=0.9)
    assert result.report.before.macs == 34 * (4 * 8 * (6 + 8) + 8 * 32 + 32 * 4)


def test_batches_of_independent_samples_stay_rows():
    n = Net({"x": ("N", 6)})
    hidden = n.node("Relu", n.node("MatMul", "x", n.weight(6, 16)))
    model = n.model(n.node("MatMul", hidden, n.weight(16, 4)))
    feeds = [{"x": x} for x in np.random.default_rng(0).normal(size=(8, 8, 6))]
    result = onnx_reap.reap(model, feeds, target_macs=0.6)
    assert result.report.held_out.samples == 6
    assert not {NOTE, MIXED} & {*result.report.notes}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rest", [0, 1])
def test_rows_of_convolutions_of_differing_sizes_belong_together(transposed, rest):
    """Half of the channels follow from the others: what is removed can be made up for exactly."""
    n = Net({"x": (1, 3, "H", "W")})
    half = n.weight(8, 3, 3, 3)
    mixed = np.einsum("ab,bcde->acde", n.weight(8, 8), half)
    h = n.node("Conv", "x", np.concatenate([half, mixed]), pads=[1] * 4)
    if transposed:
        padding = {"output_padding": [rest, rest]}
        h = n.node(
            "ConvTranspose", h, n.weight(16, 4, 3, 3), strides=[2, 2], pads=[1] * 4, **padding
        )
    else:
        h = n.node("Conv", h, n.weight(4, 16, 3, 3), strides=[2, 2], pads=[rest, 1, 1, 1])
    model = n.model(h)
    rng = np.random.default_rng(0)
    sizes = rng.integers(7, 15, (24, 2))
    feeds = [{"x": rng.normal(size=(1, 3, *size)).astype(np.float32)} for size in sizes]
    result = onnx_reap.reap(model, feeds, ratio=0.5, round_to=1, joint_refit=2)
    assert result.report.after.macs < 0.6 * result.report.before.macs
    assert error(model, result.model, feeds) < 1e-3  # of damping; rows of other places give 0.1


def test_what_fits_neither_way_is_told_as_for_rows():
    n = Net({"x": ("N", 6), "z": ("N", 6)})
    model = n.model(n.node("MatMul", n.node("Relu", n.node("Add", "x", "z")), n.weight(6, 4)))
    data = {"x": np.ones((30, 6)), "z": np.ones((29, 6))}
    with pytest.raises(onnx_reap.ReapError, match="different numbers of samples"):
        onnx_reap.reap(model, data)


def test_scalars_stay_scalars():
    n = Net({"x": ("N", 6), "s": ()})
    hidden = n.node("Relu", n.node("Mul", n.node("MatMul", "x", n.weight(6, 16)), "s"))
    model = n.model(n.node("MatMul", hidden, n.weight(16, 4)))
    rng = np.random.default_rng(0)
    for data in (None, {"x": rng.normal(size=(30, 6)), "s": 2.0}):
        result = onnx_reap.reap(model, data, target_macs=0.6)
        assert NOTE not in result.report.notes
    changing = [{"x": rng.normal(size=(3, 6)), "s": float(s)} for s in range(24)]
    assert NOTE in onnx_reap.reap(model, changing, target_macs=0.6).report.notes


def test_texts_that_an_encoder_knows():
    n = Net({"x": ("N", 6)})
    words = [f"word {i}" for i in range(40)]
    flat = n.node("Reshape", n.node("Gather", n.random(40, 8), "ids"), np.array([0, 48]))
    hidden = n.node("Relu", n.node("MatMul", flat, n.weight(48, 32)))
    out = n.node("MatMul", hidden, n.weight(32, 4))
    encode = oh.make_node(
        "LabelEncoder", ["x"], ["ids"], domain="ai.onnx.ml", keys_strings=words,
        values_int64s=[*range(40)],
    )  # fmt: skip
    graph = oh.make_graph(
        [encode, *n.nodes],
        "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.STRING, ["N", 6])],
        [oh.make_tensor_value_info(out, onnx.TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(x, name) for name, x in n.weights.items()],
    )
    sets = [oh.make_opsetid("", 17), oh.make_opsetid("ai.onnx.ml", 2)]
    model = oh.make_model(graph, opset_imports=sets, ir_version=8)
    texts = np.random.default_rng(0).choice(words, (128, 6))
    for data in (texts, texts.astype(object), None):
        result = onnx_reap.reap(model, data, target_macs=0.6)
        assert result.report.after.macs <= 0.6 * result.report.before.macs
        assert error(model, result.model, [{"x": texts}]) < 0.5
