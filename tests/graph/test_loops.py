"""Layers in the bodies of Loop and Scan are pruned where all samples make the same trips."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from looping import value
from net import Net
from small_models import run

import onnx_reap

STEPS, WIDTH, HIDDEN = 5, 8, 32
SETTINGS: dict[str, Any] = {"target_macs": 0.6, "round_to": 1}


def _sequences(count: int = 48, steps: int = STEPS, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, steps, WIDTH)).astype(np.float32)


def _recurrent(
    kind: str, *, own: bool = True, steps: int | str = STEPS, opset: int = 17, trips: int = STEPS
) -> onnx.ModelProto:
    """A recurrent layer and a layer on each of its states, written out in a body."""
    n = Net({"x": ("N", steps, WIDTH)}, opset=opset)
    first = Net({}, seed=1)
    scale = 1 / np.sqrt(HIDDEN)
    w, r = (
        first.random(WIDTH, HIDDEN, name="w"),
        first.random(HIDDEN, HIDDEN, name="r", scale=scale),
    )
    bias, m = first.random(HIDDEN, name="bias"), first.random(HIDDEN, 24, name="m", scale=scale)
    nodes = [
        oh.make_node("MatMul", ["step", w], ["a"], "in"),
        oh.make_node("MatMul", ["h", r], ["b"], "recur"),
        oh.make_node("Add", ["a", "b"], ["ab"], "sum"),
        oh.make_node("Add", ["ab", bias], ["s"], "shift"),
        oh.make_node("Tanh", ["s"], ["t"], "tanh"),
        oh.make_node("MatMul", ["t", m], ["u"], "each"),
        oh.make_node("Relu", ["u"], ["v"], "relu"),
    ]
    arrays = [onnx.numpy_helper.from_array(x, name) for name, x in first.weights.items()]
    weights = arrays if own else []
    if not own:
        n.weights |= first.weights
    state, step = _value("h", HIDDEN), _value("step", WIDTH)
    results = [_value("t", HIDDEN), _value("v", 24)]
    size = n.node("Gather", n.node("Shape", "x"), n.constant(np.array([0])), axis=0)
    shape = n.node("Concat", size, n.constant(np.array([HIDDEN])), axis=0)
    start = n.node("Expand", n.constant(np.zeros((1, HIDDEN)), "zeros"), shape)
    if kind == "Scan":
        body = oh.make_graph(nodes, "b", [state, step], results, weights)
        scan = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [2], "body": body}
        _, each = n.node("Scan", start, "x", outputs=2, name="loop", **scan)
        return n.model(n.gemm(n.node("Flatten", n.node("GlobalMaxPool", each)), 24, 5))
    pick = oh.make_node("Gather", ["x", "number"], ["step"], "pick", axis=1)
    keep = oh.make_node("Identity", ["go"], ["on"], "keep")
    inputs = [value("number", np.int64, []), value("go", np.bool_, []), state]
    outputs = [value("on", np.bool_, []), *results]
    body = oh.make_graph([pick, *nodes, keep], "b", inputs, outputs, weights)
    count, yes = n.constant(np.array(trips)), n.constant(np.array(True))
    _, each = n.node("Loop", count, yes, start, outputs=2, name="loop", body=body)
    last = n.node("Transpose", each, perm=[1, 2, 0])
    return n.model(n.gemm(n.node("Flatten", n.node("GlobalMaxPool", last)), 24, 5))


def _value(name: str, width: int) -> onnx.ValueInfoProto:
    return value(name, shape=[None, width])


def _body(model: onnx.ModelProto) -> onnx.GraphProto:
    (loop,) = (node for node in model.graph.node if node.op_type in ("Loop", "Scan"))
    return next(a.g for a in loop.attribute if a.name == "body")


def _error(model: onnx.ModelProto, original: onnx.ModelProto, x: np.ndarray) -> float:
    y, pruned = (run(each, {"x": x})[0] for each in (original, model))
    return float(((y - pruned) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
@pytest.mark.parametrize(("own", "opset"), [(True, 17), (False, 17), (True, 11), (True, 21)])
def test_the_layers_of_a_body_are_cut_and_refitted(kind, own, opset):
    model = _recurrent(kind, own=own, opset=opset)
    res = onnx_reap.reap(model, _sequences(), **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    each = WIDTH * HIDDEN + HIDDEN * HIDDEN + HIDDEN * 24
    assert res.report.before.macs == STEPS * each + 24 * 5
    assert res.report.after.macs <= 0.6 * res.report.before.macs
    assert {group.name for group in res.report.groups} == {"in", "each"}
    assert not any("body" in row.reason for row in res.report.frozen)
    sliced = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS).model
    x = _sequences(200, seed=2)
    assert _error(res.model, model, x) < 0.25 * _error(sliced, model, x)
    # One body, as before
    assert [node.op_type for node in _body(sliced).node] == [n.op_type for n in _body(model).node]
    again = onnx_reap.inspect(res.model, _sequences(8))
    assert again.total.macs == res.report.after.macs
    assert again.total.params == res.report.after.params


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_a_cut_body_is_the_masked_one_for_any_number_of_trips(kind, steps):
    model = _recurrent(kind, steps="T")
    if kind == "Loop":
        shape = oh.make_node("Shape", ["x"], ["sizes"], start=1, end=2)
        (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
        loop.input[0] = "trips"
        flat = oh.make_node("Squeeze", ["sizes"], ["trips"])
        for node in (flat, shape):
            model.graph.node.insert(0, node)
    plan = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS).plan
    masked, cut = onnx_reap.mask(model, plan), onnx_reap.cut(model, plan)
    x = _sequences(4, steps, seed=3)
    want = run(masked, {"x": x})[0]
    np.testing.assert_allclose(run(cut, {"x": x})[0], want, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(model, {"x": x})[0], want, atol=1e-3)


def test_a_loop_of_one_trip_still_ties_the_state_to_itself():
    model = _recurrent("Scan", steps="T")
    plan = onnx_reap.reap(model, _sequences(steps=1), refit=False, **SETTINGS).plan
    masked, cut = onnx_reap.mask(model, plan), onnx_reap.cut(model, plan)
    x = _sequences(4, 6, seed=3)
    want = run(masked, {"x": x})[0]
    np.testing.assert_allclose(run(cut, {"x": x})[0], want, rtol=1e-4, atol=1e-5)


def test_a_body_in_which_nothing_changes_keeps_its_nodes():
    n = Net({"x": ("N", STEPS, WIDTH)})
    model = _recurrent("Loop")
    hidden = n.node("Relu", n.node("MatMul", "x", n.random(WIDTH, 40, name="wide"), name="front"))
    back = n.node("MatMul", hidden, n.random(40, WIDTH, name="narrow"), name="back")
    for node in _body(model).node:
        node.input[:] = [back if name == "x" else name for name in node.input]
    for node in reversed(n.nodes):
        model.graph.node.insert(0, node)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, k) for k, a in n.weights.items())
    settings = {"ratio": 0.5, "refit": False, "criterion": "l1", "round_to": 1}
    res = onnx_reap.reap(model, _sequences(), exclude=["back", "in", "recur", "each"], **settings)
    assert res.report.after.macs < res.report.before.macs
    assert list(_body(res.model).node) == list(_body(model).node)
    assert list(_body(res.model).initializer) == list(_body(model).initializer)


def test_samples_that_make_different_trips_leave_a_body_alone():
    model = _recurrent("Scan", steps="T")
    feeds = [{"x": _sequences(1, steps, seed=steps)} for steps in (3, 4, 5, 6)]
    with pytest.raises(onnx_reap.ReapError, match="body of Scan, whose trips differ"):
        onnx_reap.reap(model, feeds, **SETTINGS)


def test_states_that_begin_as_one_constant_are_cut_apart():
    n = Net({"x": ("N", STEPS, WIDTH)})
    rows = [n.random(WIDTH, HIDDEN, scale=0.3) for _ in "ab"]
    nodes = [
        oh.make_node("MatMul", ["step", rows[0]], ["a"], "one"),
        oh.make_node("MatMul", ["step", rows[1]], ["b"], "two"),
        oh.make_node("Add", ["g", "a"], ["g2"], "add_one"),
        oh.make_node("Add", ["h", "b"], ["h2"], "add_two"),
    ]
    pick = oh.make_node("Gather", ["x", "number"], ["step"], "pick", axis=1)
    keep = oh.make_node("Identity", ["go"], ["on"], "keep")
    inputs = [value("number", np.int64, []), value("go", np.bool_, []), value("g"), value("h")]
    outputs = [value("on", np.bool_, []), value("g2"), value("h2")]
    body = oh.make_graph([pick, *nodes, keep], "b", inputs, outputs)
    start = n.constant(np.full((1, HIDDEN), 0.5), "start")
    ends = n.constant(np.array(STEPS)), n.constant(np.array(True))
    g, h = n.node("Loop", *ends, start, start, outputs=2, name="loop", body=body)
    y = n.node("Add", n.gemm(n.node("Relu", g), HIDDEN, 5), n.gemm(n.node("Relu", h), HIDDEN, 5))
    model = n.model(y)
    res = onnx_reap.reap(model, _sequences(), **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    assert {group.name for group in res.report.groups} == {"one", "two"}
    plan = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS).plan
    x = {"x": _sequences(3, seed=4)}
    want = run(onnx_reap.mask(model, plan), x)[0]
    np.testing.assert_allclose(run(onnx_reap.cut(model, plan), x)[0], want, rtol=1e-4, atol=1e-5)


def test_a_scan_along_channels_keeps_them():
    """Every trip takes one channel."""
    n = Net({"x": ("N", WIDTH)})
    w, r = n.random(1, HIDDEN), n.random(HIDDEN, HIDDEN, scale=0.1)
    nodes = [
        oh.make_node("Unsqueeze", ["step", n.constant(np.array([1]))], ["column"]),
        oh.make_node("MatMul", ["column", w], ["a"], "in"),
        oh.make_node("MatMul", ["h", r], ["b"], "recur"),
        oh.make_node("Add", ["a", "b"], ["t"], "sum"),
    ]
    body = oh.make_graph(nodes, "b", [value("h"), value("step")], [value("t")])
    channels = n.node("Relu", n.node("MatMul", "x", n.random(WIDTH, 6), name="front"))
    start = n.node("MatMul", "x", n.constant(np.zeros((WIDTH, HIDDEN))), name="start")
    scan = {"num_scan_inputs": 1, "scan_input_axes": [1]}
    h = n.node("Scan", start, channels, name="loop", body=body, **scan)
    model = n.model(n.gemm(h, HIDDEN, 5))
    seen = onnx_reap.inspect(model, _sequences()[:, 0])
    assert {group.name for group in seen.groups}.isdisjoint({"front"})
    assert any(node.node == "front" for row in seen.frozen for node in row.nodes)
    res = onnx_reap.reap(model, _sequences()[:, 0], **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)


def test_trips_in_both_directions_and_results_along_another_axis():
    n = Net({"x": ("N", STEPS, WIDTH)})
    w, r = n.random(WIDTH, HIDDEN, scale=0.3), n.random(HIDDEN, HIDDEN, scale=0.1)
    nodes = [
        oh.make_node("MatMul", ["step", w], ["a"], "in"),
        oh.make_node("MatMul", ["h", r], ["b"], "recur"),
        oh.make_node("Add", ["a", "b"], ["t"], "sum"),
        oh.make_node("Tanh", ["t"], ["out"], "tanh"),
    ]
    body = oh.make_graph(nodes, "b", [value("h"), value("step")], [value("t"), value("out")])
    start = n.node(
        "MatMul", n.node("Gather", "x", n.constant(np.array(0)), axis=1), w, name="start"
    )
    scan = {
        "num_scan_inputs": 1,
        "scan_input_axes": [1],
        "scan_input_directions": [1],
        "scan_output_axes": [-1],
        "scan_output_directions": [1],
    }
    _, each = n.node("Scan", start, "x", outputs=2, name="loop", body=body, **scan)
    model = n.model(
        n.node("MatMul", n.node("ReduceMax", each, axes=[2], keepdims=0), n.random(HIDDEN, 5))
    )
    plan = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS).plan
    x = {"x": _sequences(3, seed=4)}
    want = run(onnx_reap.mask(model, plan), x)[0]
    np.testing.assert_allclose(run(onnx_reap.cut(model, plan), x)[0], want, rtol=1e-4, atol=1e-5)


def test_integers_that_others_read_leave_a_body_alone():
    """Shapes may depend on them."""
    model = _recurrent("Loop")
    body = _body(model)
    body.output.insert(1, value("count", np.int64, []))
    body.input.insert(2, value("counted", np.int64, []))
    body.node.append(oh.make_node("Add", ["counted", "counted"], ["count"], "double"))
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    loop.input.insert(2, "one")
    loop.output.insert(0, "count_out")
    one = onnx.numpy_helper.from_array(np.array(1), "one")
    model.graph.initializer.append(one)
    free = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS)
    onnx.checker.check_model(free.model, full_check=True)
    shape = oh.make_tensor_value_info("count_out", onnx.TensorProto.INT64, None)
    model.graph.output.append(shape)
    with pytest.raises(onnx_reap.ReapError, match="body of Loop, whose states or"):
        onnx_reap.reap(model, _sequences(), **SETTINGS)


def test_a_loop_in_the_branch_that_is_taken_is_followed_too():
    model = _recurrent("Loop", own=False)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    (out,) = model.graph.output
    then, other = (value(f"{k}/y") for k in ("then", "other"))
    nodes = list(whole.graph.node)
    nodes[-1].output[:] = ["then/y"]
    flat = [
        oh.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
        oh.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        oh.make_node("Expand", ["column", "five"], ["other/y"]),
    ]
    bodies = {
        "then_branch": oh.make_graph(nodes, "a", [], [then]),
        "else_branch": oh.make_graph(flat, "b", [], [other]),
    }
    constants = {"axis": np.array([1]), "five": np.array([1, 5]), "yes": np.array(True)}
    del whole.graph.node[:]
    whole.graph.node.append(oh.make_node("If", ["yes"], [out.name], "choice", **bodies))
    whole.graph.initializer.extend(onnx.numpy_helper.from_array(a, k) for k, a in constants.items())
    res = onnx_reap.reap(whole, _sequences(), **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    alone = onnx_reap.reap(model, _sequences(), **SETTINGS)
    assert res.report.after.macs == alone.report.after.macs
    x = {"x": _sequences(3, seed=4)}
    np.testing.assert_allclose(run(res.model, x)[0], run(alone.model, x)[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_integer_weights_stay_in_the_body(kind):
    """Where onnxruntime 1.32 wants those of a DequantizeLinear to be."""
    model = _recurrent(kind)
    body = _body(model)
    for tensor in [t for t in body.initializer if len(t.dims) == 2]:
        array, name = onnx.numpy_helper.to_array(tensor), tensor.name
        scale = (np.abs(array).max(0) / 127).astype(np.float32)
        parts = {"q": np.round(array / scale).astype(np.int8), "scale": scale}
        parts["zero"] = np.zeros(scale.shape, np.int8)
        body.initializer.remove(tensor)
        body.initializer.extend(
            onnx.numpy_helper.from_array(x, f"{name}_{k}") for k, x in parts.items()
        )
        read = [f"{name}_{k}" for k in parts]
        body.node.insert(0, oh.make_node("DequantizeLinear", read, [name], axis=1))
    res = onnx_reap.reap(model, _sequences(), **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    assert res.report.after.macs <= 0.6 * res.report.before.macs
    names = {t.name for t in _body(res.model).initializer if t.data_type == onnx.TensorProto.INT8}
    assert names >= {"w_q", "r_q", "m_q"}
    sliced = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS)
    x = _sequences(200, seed=2)
    assert _error(res.model, model, x) < 0.25 * _error(sliced.model, model, x)
    want = run(onnx_reap.mask(model, sliced.plan), {"x": x})[0]
    assert not np.allclose(run(model, {"x": x})[0], want, atol=1e-3)
    np.testing.assert_allclose(run(sliced.model, {"x": x})[0], want, rtol=1e-4, atol=1e-5)


def test_loops_of_very_many_trips_stay():
    model = _recurrent("Scan", steps=600)
    with pytest.raises(onnx_reap.ReapError, match="makes 600 trips, too many to follow"):
        onnx_reap.reap(model, _sequences(4, 600), **SETTINGS)


def test_bodies_declare_the_sizes_that_they_have():
    """By which onnxruntime shapes what no trip makes."""
    res = onnx_reap.reap(_recurrent("Loop"), _sequences(), **SETTINGS)
    left = {group.name: group.after for group in res.report.groups}
    body = _body(res.model)
    sizes = {v.name: v.type.tensor_type.shape.dim[-1].dim_value for v in body.output[1:]}
    assert sizes == {"t": left["in"], "v": left["each"]}
    assert body.input[2].type.tensor_type.shape.dim[-1].dim_value == left["in"]


def test_a_plan_fits_the_model_whatever_bodies_are_followed():
    """Nodes without a name are known by their place in the file."""
    model = _recurrent("Scan", steps="T")
    for node in (*model.graph.node, *_body(model).node):
        node.name = ""
    feeds = [{"x": _sequences(1, steps, seed=steps)} for steps in (3, 4, 5, 6)]
    front = Net({"x": ("N", "T", WIDTH)})
    hidden = front.node("Relu", front.node("MatMul", "x", front.random(WIDTH, 40, name="wide")))
    back = front.node("MatMul", hidden, front.random(40, WIDTH, name="narrow"))
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    scan.input[1] = back
    for node in reversed(front.nodes):
        node.name = ""
        model.graph.node.insert(0, node)
    weights = (onnx.numpy_helper.from_array(a, k) for k, a in front.weights.items())
    model.graph.initializer.extend(weights)
    res = onnx_reap.reap(model, feeds, ratio=0.5, refit=False, round_to=1)
    cut = onnx_reap.cut(model, res.plan)
    x = {"x": _sequences(2, 4)}
    np.testing.assert_allclose(run(cut, x)[0], run(res.model, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_activations_that_a_body_quantises_are_compared_with_roundings(kind):
    model = _recurrent(kind)
    body = _body(model)
    scale, zero = np.array(0.02, np.float32), np.array(128, np.uint8)
    body.initializer.extend(
        onnx.numpy_helper.from_array(x, name) for name, x in (("scale", scale), ("zero", zero))
    )
    place = next(n for n, node in enumerate(body.node) if node.name == "each")
    body.node[place].input[0] = "t_dq"
    for op, x, y in (("DequantizeLinear", "t_q", "t_dq"), ("QuantizeLinear", "t", "t_q")):
        body.node.insert(place, oh.make_node(op, [x, "scale", "zero"], [y], y))
    onnx.checker.check_model(model)
    res = onnx_reap.reap(model, _sequences(), **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    assert res.report.after.macs <= 0.6 * res.report.before.macs
