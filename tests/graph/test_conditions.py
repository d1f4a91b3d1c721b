"""Branches that all samples take are pruned like the rest of the model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from conditional import branch, in_branches, the_if, with_switch
from net import Net
from small_models import chain, images, run

import onnx_reap
from onnx_reap.graph import probing

SETTINGS: dict[str, Any] = {"target_macs": 0.6, "round_to": 1, "joint_refit": 0, "tune": 0}


def _feeds(count: int = 24, value: int = 1, seed: int = 1) -> list[dict[str, np.ndarray]]:
    return [with_switch({"x": x[None]}, value) for x in images(count, seed=seed)]


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_a_branch_is_pruned_as_it_would_be_alone(holds, own):
    plain = chain(8)
    model = in_branches(plain, own=own)
    res = onnx_reap.reap(model, _feeds(value=int(holds)), **SETTINGS)
    alone = onnx_reap.reap(plain, [{"x": x[None]} for x in images(24)], **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    assert res.report.before.macs == alone.report.before.macs
    assert res.report.after.macs == alone.report.after.macs
    assert [g.after for g in res.report.groups] == [g.after for g in alone.report.groups]
    x = images(3, seed=2)
    taken = run(res.model, with_switch({"x": x}, int(holds)))[0]
    np.testing.assert_allclose(taken, run(alone.model, {"x": x})[0], rtol=1e-4, atol=1e-5)
    # The other branch is as it was.
    other = with_switch({"x": x}, 1 - int(holds))
    assert np.array_equal(run(res.model, other)[0], run(model, other)[0])
    assert branch(res.model, not holds) == branch(model, not holds)


def test_parameters_are_those_of_both_branches_and_of_the_file():
    model = in_branches(chain(8))
    res = onnx_reap.reap(model, _feeds(), **SETTINGS)
    again = onnx_reap.inspect(res.model, _feeds(4))
    assert res.report.after.params == again.total.params
    assert res.report.after.macs == again.total.macs
    assert res.report.before.params == 2 * onnx_reap.inspect(chain(8)).total.params


@pytest.mark.parametrize("refit", [True, False])
def test_names_that_both_branches_use_are_told_apart(refit):
    model = in_branches(chain(8), same_names=True)
    res = onnx_reap.reap(model, _feeds(), refit=refit, **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    assert res.report.after.macs < 0.61 * res.report.before.macs
    (want,) = run(model, with_switch({"x": images(2)}, 0))
    assert np.array_equal(run(res.model, with_switch({"x": images(2)}, 0))[0], want)


def test_a_branch_in_which_nothing_changes_is_written_as_it_was():
    n = Net({"x": ("N", 3, 8, 8)})
    y = n.node("Flatten", n.node("Relu", n.node("GlobalAveragePool", n.block("x", 3, 8))))
    model = in_branches(n.model(n.gemm(y, 8, 4)))
    # A layer of the model's own loses channels, none of the branch does.
    front = Net({"x": ("N", 3, 8, 8)}, seed=3)
    hidden = front.block(front.block("x", 3, 12), 12, 3)
    for node in front.nodes:
        node.output[:] = ["front" if name == hidden else name for name in node.output]
    for each in (branch(model, True), branch(model, False)):
        for node in each.node:
            node.input[:] = ["front" if name == "x" else name for name in node.input]
    for node in reversed(front.nodes):
        model.graph.node.insert(0, node)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, k) for k, a in front.weights.items()
    )
    res = onnx_reap.reap(
        model, _feeds(), ratio=0.5, exclude="mine/*", refit=False, criterion="l1", round_to=1
    )
    assert any(group.after < group.before for group in res.report.groups)
    assert the_if(res.model) == the_if(model)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {tensor.name for tensor in res.model.graph.initializer} == names | {"one"}


def test_samples_that_disagree_leave_both_branches_alone():
    model = in_branches(chain(8))
    feeds = _feeds(8, 1) + _feeds(8, 0)
    with pytest.raises(onnx_reap.ReapError, match="made inside the body of If"):
        onnx_reap.reap(model, feeds, **SETTINGS)


def _by_mean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let the mean of a sample choose the branch of an If, in place of the switch."""
    (compare,) = (node for node in model.graph.node if node.op_type == "Equal")
    zero = onnx.numpy_helper.from_array(np.array(0, np.float32), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.insert(0, oh.make_node("ReduceMean", ["x"], ["mean"], keepdims=0))
    compare.op_type, compare.input[:] = "Greater", ["mean", "zero"]
    del model.graph.input[1]
    return model


def _with_counted_runs(monkeypatch) -> list[list[str]]:
    """Return a list to which the names of conditions go whenever these are computed."""
    computed = []

    def counted(active, names, feed):
        computed.append(names)
        return plain(active, names, feed)

    plain = probing.run
    monkeypatch.setattr(probing, "run", counted)
    return computed


def test_samples_are_read_until_all_conditions_disagree(monkeypatch):
    computed, data = _with_counted_runs(monkeypatch), images(128)
    data -= data.mean(axis=(1, 2, 3), keepdims=True)
    data[0] += 1
    data[1:] -= 3
    onnx_reap.inspect(_by_mean(in_branches(chain(8))), data)
    assert len(computed) == 2  # a batch of one sample, then one of two
    computed.clear()
    onnx_reap.inspect(_by_mean(in_branches(chain(8))), data + 6)
    assert len(computed) == len(probing.FEW) + 128 / probing.BATCH


def test_conditions_that_disagree_are_computed_once(monkeypatch):
    """Though another If is settled beside theirs, and the model read again."""
    computed, data = _with_counted_runs(monkeypatch), images(24)
    data[::2] += 3
    data[1::2] -= 3
    model = _by_mean(in_branches(chain(8)))
    settled = onnx.compose.add_prefix(
        in_branches(chain(4), switch=False), "b/", rename_inputs=False
    )
    model.graph.node.extend(settled.graph.node)
    model.graph.output.extend(settled.graph.output)
    onnx.checker.check_model(model)
    seen = onnx_reap.inspect(model, data)
    reasons = {row.reason for row in seen.frozen}
    assert "made inside the body of If, whose branch differs from sample to sample" in reasons
    assert "result of If, or used in its other branch" in reasons
    assert len(computed) == 2  # one sample, then two or three


def test_an_if_in_a_branch_is_followed_too():
    inner = in_branches(chain(8))
    outer = onnx.ModelProto()
    outer.CopyFrom(inner)
    yes = oh.make_node("Constant", [], ["yes"], value=onnx.numpy_helper.from_array(np.array(True)))
    results = [oh.make_tensor_value_info(f"{k}/y", onnx.TensorProto.FLOAT, None) for k in "ab"]
    whole = copy.deepcopy(list(inner.graph.node))
    name = inner.graph.output[0].name
    whole[-1].output[:] = ["a/y"]
    zero = oh.make_node("Identity", ["x"], ["b/y"])
    bodies = {
        "then_branch": oh.make_graph(whole, "deep", [], results[:1]),
        "else_branch": oh.make_graph([zero], "flat", [], results[1:]),
    }
    del outer.graph.node[:]
    outer.graph.node.extend([yes, oh.make_node("If", ["yes"], [name], "outer", **bodies)])
    res = onnx_reap.reap(outer, _feeds(), **SETTINGS)
    onnx.checker.check_model(res.model, full_check=True)
    alone = onnx_reap.reap(inner, _feeds(), **SETTINGS)
    assert res.report.after.macs == alone.report.after.macs
    feed = with_switch({"x": images(2)})
    np.testing.assert_allclose(run(res.model, feed)[0], run(alone.model, feed)[0], atol=1e-5)


@pytest.mark.parametrize("by", ["batch", "width"])
def test_a_condition_that_follows_from_sizes_counts_where_all_batches_agree(by):
    """An If without layers between two layers; its results keep their form."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8)
    size = n.node("Gather", n.node("Shape", h), n.constant(np.array(0 if by == "batch" else 2)))
    one = n.node("Equal", size, n.constant(np.array(1 if by == "batch" else 8)))
    float_ = onnx.TensorProto.FLOAT
    kept = oh.make_tensor_value_info("kept", float_, None)
    made = oh.make_tensor_value_info("made", float_, None)
    choice = n.node(
        "If",
        one,
        name="choice",
        then_branch=oh.make_graph([oh.make_node("Identity", [h], ["kept"])], "a", [], [kept]),
        else_branch=oh.make_graph([oh.make_node("Relu", [h], ["made"])], "b", [], [made]),
    )
    model = n.model(n.head(n.block(choice, 8, 8), 8, 5))
    seen = onnx_reap.inspect(model)
    reasons = {row.reason for row in seen.frozen}
    settled = "result of If, or used in its other branch" in reasons
    assert settled == (by == "width")
    res = onnx_reap.reap(model, images(24), ratio=0.5, round_to=1)
    assert "If" in {node.op_type for node in res.model.graph.node}


def test_masks_of_branches_zero_what_the_branch_reads():
    model = in_branches(chain(8))
    plan = onnx_reap.reap(model, _feeds(), refit=False, **SETTINGS).plan
    masked, cut = onnx_reap.mask(model, plan), onnx_reap.cut(model, plan)
    feed = with_switch({"x": images(2)})
    np.testing.assert_allclose(run(masked, feed)[0], run(cut, feed)[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(masked, feed)[0], run(model, feed)[0], atol=1e-3)


def _with_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the If a second result, another constant in each branch, by which the first goes on."""
    (out,) = model.graph.output
    choice = the_if(model)
    for holds, value in ((True, 2.0), (False, 3.0)):
        body, name = branch(model, holds), f"scale/{holds}"
        body.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.float32), name))
        body.output.append(oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))
    choice.output[:] = ["raw", "scale"]
    model.graph.node.append(oh.make_node("Mul", ["raw", "scale"], [out.name]))
    return model


def test_results_that_are_constants_stay_results():
    """The other branch gives another constant."""
    model = _with_scale(in_branches(chain(8)))
    res = onnx_reap.reap(model, _feeds(), refit=False, **SETTINGS)
    masked = onnx_reap.mask(model, res.plan)
    for each in (res.model, masked):
        onnx.checker.check_model(each, full_check=True)
        feed = with_switch({"x": images(2)}, 0)
        np.testing.assert_array_equal(run(each, feed)[0], run(model, feed)[0])


def test_results_that_are_integers_leave_an_if_alone():
    """Shapes may depend on them."""
    model = in_branches(chain(8))
    for holds in (True, False):
        body, name = branch(model, holds), f"size/{holds}"
        value = onnx.numpy_helper.from_array(np.array([1, -1]), name)
        body.initializer.append(value)
        body.output.append(oh.make_tensor_value_info(name, onnx.TensorProto.INT64, [2]))
    the_if(model).output.append("size")
    with pytest.raises(onnx_reap.ReapError, match="made inside the body of If"):
        onnx_reap.reap(model, _feeds(), **SETTINGS)


def test_a_condition_that_batches_and_single_samples_decide_differently_is_open():
    model = _by_mean(in_branches(chain(8)))
    data = images(64)
    data[0] -= data[0].mean() + 0.1  # alone it is below zero, with others above
    data[1:] += 1
    with pytest.raises(onnx_reap.ReapError, match="made inside the body of If"):
        onnx_reap.reap(model, data, **SETTINGS)
