"""Layers inside the bodies of If, Loop and Scan are told of."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from small_models import images

import onnx_reap
from onnx_reap.graph.bodies import find_in_bodies
from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.graph.ir.model import Model

REASON = "made inside the body of If"


def _value(array) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array, np.float32))


def _body(output: str, *nodes: onnx.NodeProto, shape=None) -> onnx.GraphProto:
    out = oh.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)
    return oh.make_graph(list(nodes), "body", [], [out])


def _branching(before: bool) -> onnx.ModelProto:
    """An If with layers in both bodies, one of them in a body of a body."""
    n = Net({"x": ("N", 3, 8, 8)})
    x = n.block(n.block("x", 3, 8), 8, 3) if before else "x"
    weight = n.random(4, 3, 1, 1, name="outer")
    yes = n.constant(np.array(True))
    nested = _body(
        "e",
        oh.make_node("Constant", [], ["w"], value=_value(np.ones((3, 2, 1, 1)))),
        oh.make_node("ConvTranspose", [x, "w"], ["d"], "up"),
        oh.make_node("Concat", ["d", "d"], ["e"], axis=1),
    )
    deep = oh.make_node("If", [yes], ["g"], "deep", then_branch=nested, else_branch=nested)
    down = oh.make_node("Conv", [x, weight], ["f"], "down")
    product = oh.make_node("MatMul", [x, x], ["unused"], "product")  # no layer
    bodies = {"then_branch": _body("f", down, product), "else_branch": _body("g", deep)}
    y = n.node("If", yes, name="choice", **bodies)
    return n.model(n.node("ReduceMean", y, axes=[2, 3], keepdims=0))


def test_layers_in_bodies_are_found_with_their_channels_and_costs():
    feed = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    found = find_in_bodies(Model(_branching(before=False)), feed, 2, ["CPUExecutionProvider"])
    down, up = (FrozenChannels(n, c, REASON, "choice") for n, c in (("down", 4), ("up", 2)))
    assert sorted(found.frozen, key=str) == [down, up, up]
    # The branch that is not taken costs nothing; a product of activations is no layer, but counts.
    assert found.macs == {down: 64 * 4 * 3, up: 0}
    assert found.totals == {"choice": 64 * 4 * 3 + 3 * 64 * 8}


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("wide", [4, 2])
def test_layers_of_one_name_in_two_branches_have_counts_of_their_own(taken, wide):
    """Bodies may use the same names, also for Ifs inside of them."""
    n = Net({"x": ("N", 3, 8, 8)})
    yes = n.constant(np.array(taken))

    def once(channels: int) -> onnx.GraphProto:
        weight = n.random(channels, 3, 1, 1)
        return _body("f", oh.make_node("Conv", ["x", weight], ["f"], "layer"))

    def twice(channels: int) -> onnx.GraphProto:
        ifs = [
            oh.make_node("If", [yes], [out], then_branch=once(channels), else_branch=once(1))
            for out in "ab"
        ]
        return _body("g", *ifs, oh.make_node("Concat", ["a", "b"], ["g"], axis=1))

    bodies = {"then_branch": twice(wide), "else_branch": once(2)}
    y = n.node("If", yes, name="choice", **bodies)
    model = n.model(n.node("ReduceMean", y, axes=[2, 3], keepdims=0))
    feed = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    found = find_in_bodies(Model(model), feed, 2, ["CPUExecutionProvider"])
    rows = {c: FrozenChannels("layer", c, REASON, "choice") for c in (1, 2, wide)}
    cost = 64 * 3 * (2 * wide if taken else 2)
    assert found.totals == {"choice": cost}
    assert found.macs == {rows[1]: 0, rows[2]: 0} | {rows[wide if taken else 2]: cost} | (
        {} if taken or wide == 2 else {rows[wide]: 0}
    )
    assert onnx_reap.inspect(model).total.macs == cost
    assert sum(row.share.macs for row in onnx_reap.inspect(model).frozen) == cost


def test_bodies_that_can_not_be_counted_say_so(monkeypatch):
    def refuse(*_args, **_options):
        raise onnx_reap.ReapError("the counting copy is refused")

    monkeypatch.setattr("onnx_reap.graph.macs_by_run.session", refuse)
    feed = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    found = find_in_bodies(Model(_branching(before=False)), feed, 2, ["CPUExecutionProvider"])
    assert all("could not be counted" in row.reason for row in found.frozen)
    assert found.frozen


TRIPS = 5


def _loop(kind: str, *, opset: int = 17, nested: bool = False, stop: int = 99) -> onnx.ModelProto:
    """A recurrent network written out, which runs its body for five steps, or until it stops."""
    n = Net({"x": ("N", TRIPS, 8)}, opset=opset)
    w, r = n.random(8, 16, name="W", scale=0.2), n.random(16, 16, name="R", scale=0.2)
    zeros = n.node(
        "MatMul",
        n.node("Gather", "x", n.constant(np.array(0)), axis=1),
        n.constant(np.zeros((8, 16), np.float32)),
    )
    float_ = onnx.TensorProto.FLOAT
    layers = [
        oh.make_node("MatMul", ["xt", w], ["a"], "in_body"),
        oh.make_node("Gemm", ["h", r], ["b"], "state_body"),
        oh.make_node("Add", ["a", "b"], ["s"]),
        oh.make_node("Tanh", ["s"], ["t"]),
    ]
    if nested:
        inner = _body("u", oh.make_node("Gemm", ["t", r], ["u"], "deep_body"), shape=["n", 16])
        other = _body("v", oh.make_node("Identity", ["t"], ["v"]), shape=["n", 16])
        yes = n.constant(np.array(True))
        layers.append(oh.make_node("If", [yes], ["out"], then_branch=inner, else_branch=other))
    else:
        layers.append(oh.make_node("Identity", ["t"], ["out"]))
    state = [oh.make_tensor_value_info(name, float_, ["n", 16]) for name in ("h", "out")]
    if kind == "Scan":
        step = oh.make_tensor_value_info("xt", float_, ["n", 8])
        body = oh.make_graph(
            layers,
            "body",
            [state[0], step],
            [state[1], oh.make_tensor_value_info("t", float_, ["n", 16])],
        )
        h, _ = n.node(
            "Scan",
            zeros,
            "x",
            outputs=2,
            name="loop",
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        )
    else:
        i, go = (
            oh.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            oh.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
        )
        more = oh.make_tensor_value_info("more", onnx.TensorProto.BOOL, [])
        last = n.constant(np.array(stop - 1))
        pick = oh.make_node("Gather", ["x", "i"], ["xt"], axis=1)
        less = oh.make_node("Less", ["i", last], ["more"])
        body = oh.make_graph([pick, less, *layers], "body", [i, go, state[0]], [more, state[1]])
        h = n.node(
            "Loop",
            n.constant(np.array(TRIPS)),
            n.constant(np.array(True)),
            zeros,
            name="loop",
            body=body,
        )
    return n.model(n.node("Reshape", n.gemm(h, 16, 4), n.constant(np.array([-1, 4]))))


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize(
    ("kind", "more", "trips", "each"),
    [
        ("Loop", {}, TRIPS, 384),
        ("Loop", {"stop": 3}, 3, 384),  # its condition ends it
        ("Scan", {}, TRIPS, 384),
        ("Loop", {"nested": True}, TRIPS, 640),
        ("Scan", {"nested": True}, TRIPS, 640),
    ],
)
def test_layers_of_loops_count_once_for_every_trip(kind, more, trips, each, opset):
    seen = onnx_reap.inspect(_loop(kind, opset=opset, **more))
    assert seen.total.macs == trips * each + 8 * 16 + 16 * 4


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_layers_of_long_loops_are_told_of(kind, monkeypatch):
    """And count once for every trip, too."""
    monkeypatch.setattr("onnx_reap.graph.trips.LARGEST", 10)
    seen = onnx_reap.inspect(_loop(kind))
    (row,) = (
        row for row in seen.frozen if row.reason.startswith(f"made inside the body of {kind}")
    )
    assert row.share.macs == TRIPS * 384
    assert {node.node for node in row.nodes} >= {"in_body", "state_body"}
    assert seen.total.macs == TRIPS * 384 + 8 * 16 + 16 * 4


def test_a_model_with_all_its_layers_in_bodies_is_refused_with_the_reason():
    reason = "result of If, or used in its other branch"
    with pytest.raises(onnx_reap.ReapError, match=f"down \\({reason} at choice\\)"):
        onnx_reap.reap(_branching(before=False), images(8), ratio=0.5, criterion="l1", refit=False)


def test_what_lies_in_front_of_bodies_is_cut_and_the_rest_reported():
    model = _branching(before=True)
    settings = {"ratio": 0.5, "criterion": "l1", "refit": False}
    report = onnx_reap.reap(model, images(8), **settings).report
    assert [group.after < group.before for group in report.groups] == [True]
    other = "made in a branch of If that no sample takes"
    assert other in {row.reason for row in report.frozen}
    inspection = onnx_reap.inspect(model)
    assert other in {row.reason for row in inspection.frozen}
    assert inspection.total.macs == report.before.macs


def test_what_a_body_holds_is_written_there_alone():
    """Sibling bodies may call their own weights the same."""
    model = _branching(before=True)
    (choice,) = (node for node in model.graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        body = attribute.g
        for node in [node for node in body.node if node.op_type == "Conv"]:
            node.input[1] = "own"
        if body.node[0].op_type == "Conv":
            body.initializer.append(_value(np.ones((4, 3, 1, 1))))
            body.initializer[0].name = "own"
    out = Model(model).to_proto()
    assert not {"own", "w"} & {tensor.name for tensor in out.graph.initializer}
    onnx.checker.check_model(out, full_check=True)
