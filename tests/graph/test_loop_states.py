"""States of loops: handed through, written in branches, made of residuals; and loops left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from looping import value
from small_models import run

import onnx_reap
from onnx_reap.onnxio.bodies import Edits
from onnx_reap.onnxio.followed import with_bodies_in_front, with_bodies_inside
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.renaming import renamed

STEPS, WIDTH, INNER, HIDDEN = 5, 8, 40, 32
SETTINGS: dict[str, Any] = {"target_macs": 0.6, "round_to": 1}
node = oh.make_node


def _sequences(count: int = 48, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, STEPS, WIDTH)).astype(np.float32)


def _weights(**shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(0)
    arrays = {name: 0.3 * rng.normal(size=shape) for name, shape in shapes.items()}
    return [onnx.numpy_helper.from_array(x.astype(np.float32), name) for name, x in arrays.items()]


IN = [node("MatMul", ["step", "wi"], ["a"], "in"), node("Relu", ["a"], ["r"], "relu")]
BODY = {"wi": (WIDTH, INNER), "wj": (INNER, HIDDEN)}
SHIFTED = [IN[0], node("Add", ["a", "k"], ["ak"], "shift"), node("Relu", ["ak"], ["r"])]
SUM = [
    node("MatMul", ["r", "wj"], ["q"], "mid"),
    node("Add", ["q", "h"], ["s"], "sum"),
    node("Tanh", ["s"], ["t"], "tanh"),
]


def _loop(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    states: Sequence[tuple[str, str, str, str]] = (),
) -> onnx.NodeProto:
    """Write a loop with a state from `h0` over `h` and `t` to `last`.

    Parameters
    ----------
    states : sequence of four str
        More states, as these four names.
    """
    starts, before, after, ends = zip(("h0", "h", "t", "last"), *states, strict=True)
    pick = node("Gather", ["x", "number"], ["step"], "pick", axis=1)
    keep = node("Identity", ["go"], ["on"], "keep")
    inputs = [value("number", np.int64, []), value("go", np.bool_, []), *map(value, before)]
    outputs = [value("on", np.bool_, []), *map(value, after)]
    body = oh.make_graph([pick, *nodes, keep], "body", inputs, outputs, list(weights))
    return node("Loop", ["five", "yes", *starts], ends, "loop", body=body)


def _model(nodes: Sequence[onnx.NodeProto], *weights: onnx.TensorProto, **more: Any):
    """Write a model that makes `h0` of the first step, and ends with `y`."""
    first = [
        node("Gather", ["x", "zero"], ["x0"], "first", axis=1),
        node("MatMul", ["x0", "w0"], ["h0"], "start"),
    ]
    numbers = {"zero": np.array(0), "five": np.array(STEPS), "yes": np.array(True)}
    constants = [onnx.numpy_helper.from_array(x, name) for name, x in numbers.items()]
    constants += [*_weights(w0=(WIDTH, HIDDEN), wo=(HIDDEN, 5)), *weights]
    x, y = value("x", shape=["N", STEPS, WIDTH]), value("y", shape=["N", 5])
    graph = oh.make_graph([*first, *nodes], "net", [x], [y], constants)
    opsets = [oh.make_opsetid("", 17), oh.make_opsetid("own", 1)]
    model = oh.make_model(graph, opset_imports=opsets, ir_version=8, **more)
    onnx.checker.check_model(model)
    return model


OUT = node("MatMul", ["last", "wo"], ["y"], "out")


def _error(model: onnx.ModelProto, original: onnx.ModelProto) -> float:
    x = {"x": _sequences(200, seed=2)}
    y, pruned = (run(each, x)[0] for each in (original, model))
    return float(((y - pruned) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


def _check(model: onnx.ModelProto, **settings: Any) -> onnx_reap.Result:
    """Prune, and compare the cut model with the masked one."""
    settings = SETTINGS | settings
    res = onnx_reap.reap(model, _sequences(), **settings)
    onnx.checker.check_model(res.model, full_check=True)
    plan = onnx_reap.reap(model, _sequences(), refit=False, **settings).plan
    x = {"x": _sequences(3, seed=4)}
    want = run(onnx_reap.mask(model, plan), x)[0]
    np.testing.assert_allclose(run(onnx_reap.cut(model, plan), x)[0], want, rtol=1e-4, atol=1e-5)
    seen = onnx_reap.inspect(res.model, _sequences(8))
    assert seen.total.macs == res.report.after.macs
    assert seen.total.params == res.report.after.params
    return res


def test_weights_that_are_handed_through_as_states_are_weights():
    """As tf2onnx writes the loops of TensorFlow."""
    states = [("wi0", "wi", "wi", "wi1"), ("wj0", "wj", "wj2", "wj1")]
    same = node("Identity", ["wj"], ["wj2"], "same")
    loop = _loop([*IN, *SUM, same], states=states)
    model = _model([loop, OUT], *_weights(wi0=(WIDTH, INNER), wj0=(INNER, HIDDEN)))
    res = _check(model)
    assert {group.name for group in res.report.groups} == {"start", "in"}
    plain = _model([_loop([*IN, *SUM], _weights(**BODY)), OUT])
    assert res.report.before.macs == onnx_reap.inspect(plain, _sequences(8)).total.macs
    assert res.report.after.macs <= 0.6 * res.report.before.macs
    sliced = onnx_reap.reap(model, _sequences(), refit=False, **SETTINGS).model
    assert _error(res.model, model) < 0.25 * _error(sliced, model)


def test_a_state_that_no_trip_changes_is_the_same_result():
    """Though what it begins as is the bias of a layer in front of the loop, too."""
    loop = _loop([*SHIFTED, *SUM], _weights(**BODY), [("bias", "k", "k", "z")])
    front = [
        node("MatMul", ["x0", "wf"], ["f"], "front"),
        node("Relu", ["f"], ["fr"]),
        node("MatMul", ["fr", "wp"], ["p"], "behind"),
        node("Add", ["p", "bias"], ["pb"], "biased"),
        node("Relu", ["pb"], ["pr"]),
        node("MatMul", ["pr", "wq"], ["pq"], "beside"),
        node("MatMul", ["last", "wo"], ["y0"], "out"),
        node("Add", ["y0", "pq"], ["y"], "both"),
    ]
    shapes = {"wf": (WIDTH, 64), "wp": (64, INNER), "bias": (INNER,), "wq": (INNER, 5)}
    model = _model([loop, *front], *_weights(**shapes))
    _check(model)
    model.graph.output.append(value("z", shape=[INNER]))
    res = onnx_reap.reap(model, _sequences(), ratio=0.4, round_to=1, exclude=["behind", "in"])
    x = {"x": _sequences(2, seed=3)}
    np.testing.assert_array_equal(run(res.model, x)[1], run(model, x)[1])


def _choice(loop: onnx.NodeProto, ends: Sequence[onnx.NodeProto], name: str) -> onnx.NodeProto:
    """Put a loop into the branch of an If that is taken; the last node makes its result."""
    other = node("MatMul", ["h0", "wo"], [f"{name}/other"], f"{name}/flat")
    then = oh.make_graph([loop, *ends], "then", [], [value(ends[-1].output[0])])
    rest = oh.make_graph([other], "else", [], [value(other.output[0])])
    return node("If", ["yes"], [name], name, then_branch=then, else_branch=rest)


def test_a_kept_state_that_only_the_branch_around_the_loop_reads():
    loop = _loop([*SHIFTED, *SUM], _weights(**BODY), [("k0", "k", "k", "z")])
    ends = [
        node("MatMul", ["z", "wz"], ["zz"], "of_kept"),
        node("MatMul", ["last", "wo"], ["yy"], "out"),
        node("Add", ["yy", "zz"], ["then/y"], "both"),
    ]
    make = node("MatMul", ["x0", "wk"], ["k0"], "start_kept")
    weights = _weights(wk=(WIDTH, INNER), wz=(INNER, 5))
    res = _check(_model([make, _choice(loop, ends, "y")], *weights))
    assert "start_kept" in {group.name for group in res.report.groups}


def test_loops_in_two_branches_with_names_of_each_other():
    """A tensor of one body has the name of the other loop's result."""
    weights = _weights(**BODY)
    first = _loop([*IN, *SUM], weights)
    names = {"t": "inner", "last": "t"}
    second = renamed(first, lambda name: names.get(name, name))
    ends = [
        node("MatMul", ["last", "wo"], ["a/y"], "a/out"),
        node("MatMul", ["t", "wo"], ["b/y"], "b/out"),
    ]
    ifs = [_choice(first, ends[:1], "y_a"), _choice(second, ends[1:], "y_b")]
    res = _check(_model([*ifs, node("Add", ["y_a", "y_b"], ["y"], "both")]))
    assert res.report.after.macs <= 0.6 * res.report.before.macs


@pytest.mark.parametrize("target", [0.35, 0.6, 0.8])
def test_residual_branches_of_a_state_vanish_in_all_trips(target):
    nodes = [
        *IN,
        node("MatMul", ["r", "wj"], ["q"], "mid"),
        node("MatMul", ["h", "wu"], ["u"], "up"),
        node("Relu", ["u"], ["ur"]),
        node("MatMul", ["ur", "wd"], ["d"], "down"),
        node("Add", ["d", "h"], ["hd"], "residual"),
        node("Add", ["hd", "q"], ["t"], "sum"),
    ]
    shapes = {"wi": (WIDTH, INNER), "wj": (INNER, HIDDEN), "wu": (HIDDEN, HIDDEN)}
    weak = onnx.numpy_helper.from_array(np.full((HIDDEN, HIDDEN), 1e-4, np.float32), "wd")
    res = _check(_model([_loop(nodes, [*_weights(**shapes), weak]), OUT]), target_macs=target)
    gone = {group.name for group in res.report.groups if not group.after}
    assert gone == {"up"} or target > 0.35


def test_bodies_that_call_functions_of_the_model_are_left_with_the_reason():
    dense = [
        node("Constant", [], ["w"], value=_weights(w=(INNER, HIDDEN))[0]),
        node("MatMul", ["a", "w"], ["o"], "inner"),
    ]
    function = oh.make_function("own", "Dense", ["a"], ["o"], dense, [oh.make_opsetid("", 17)])
    call = node("Dense", ["r"], ["q"], "call", domain="own")
    loop = _loop([*IN, call, *SUM[1:]], _weights(wi=(WIDTH, INNER)))
    seen = onnx_reap.inspect(_model([loop, OUT], functions=[function]), _sequences(8))
    reasons = {row.reason for row in seen.frozen}
    assert "made inside the body of Loop, which calls functions of the model" in reasons


def test_trips_that_differ_are_refused():
    model = _model([_loop([*IN, *SUM], _weights(**BODY)), OUT])
    unfolded = with_bodies_in_front(LightModel.of(model), {"last": 2}, lambda op: False)
    nodes = list(unfolded.light.graph.node)
    known = {name for each in nodes for name in each.output}
    settings = unfolded.followed, Edits(known, set(), lambda name: None, {})
    assert [n.op_type for n in with_bodies_inside(nodes, *settings)][-2:] == ["Loop", "MatMul"]
    second = next(n for n in nodes if n.name == "relu/trip_2")
    second.op_type = "Abs"
    with pytest.raises(onnx_reap.ReapError, match="its trips would differ"):
        with_bodies_inside(nodes, *settings)
