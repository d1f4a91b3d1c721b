"""Whole runs with a joint refit: it helps where it can, and harms nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from nets import residual_chain
from precision import converted
from small_models import bare, chain, images, weights_of

import onnx_reap
from onnx_reap.errors import UsageError
from onnx_reap.measure.activations import stream
from onnx_reap.measure.paired import Pair, compare
from onnx_reap.prune.refit import block_walk, blockwise, pace, repairs, trial
from onnx_reap.prune.refit.block_training import BlockProblem, Training

DATA = images(80)
ENOUGH = 40  # passes; with so few samples each is two steps or four
CHANGED_NOTHING = "--joint-refit changed nothing: "


ALL_PASSES = pace.PASSES  # of which other tests have only few


@pytest.fixture
def all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PASSES", ALL_PASSES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # With so few passes the outputs of such nets may be worse off: that check has its own test.
    monkeypatch.setattr(trial, "compare", lambda *arguments: Pair(1.0, 0.5, 0.1, 1.0))


def reap(model: onnx.ModelProto, data=DATA, **settings) -> onnx_reap.Result:
    chosen = {"target_macs": 0.6, "round_to": 1, "allocation": "local", "joint_refit": 3, "tune": 0}
    return onnx_reap.reap(model, data, **chosen | settings)


def said(result: onnx_reap.Result) -> list[str]:
    """What the joint refit says of itself, less its beginning."""
    notes = result.report.notes
    return [n.removeprefix(CHANGED_NOTHING) for n in notes if n.startswith(CHANGED_NOTHING)]


def products(opset: int = 17) -> onnx.ModelProto:
    """Dense layers as MatMul; of their biases some are added behind, one is missing."""
    n = Net({"x": ("N", 6, 10)}, opset=opset)
    h = n.node("Add", n.node("MatMul", "x", n.random(10, 16, scale=0.3)), n.random(16))
    h = n.node("MatMul", n.node("Relu", h), n.random(16, 12, scale=0.3))
    h = n.node("MatMul", n.node("Tanh", h), n.random(12, 12, scale=0.3))
    h = n.node("MatMul", n.node("Relu", h), n.random(12, 4, scale=0.3))
    return n.model(n.node("Add", n.random(4), h))


def rows(count: int = 80) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((count, 6, 10)).astype(np.float32)


# It helps


@pytest.mark.parametrize("seed", [0, 1])
def test_the_held_out_error_falls(seed):
    model, data = chain(seed=seed), images(200)
    runs = [
        reap(model, data, joint_refit=passes, seed=seed, target_macs=0.5).report
        for passes in (0, ENOUGH)
    ]
    before, after = (next(iter(report.held_out.output_error.values())) for report in runs)
    assert after < 0.9 * before
    assert not runs[0].blocks
    assert any(block.error_after < block.error_before for block in runs[1].blocks)


def test_layers_in_front_of_max_pooling_are_refitted():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 12), 12, 12)
    h = n.node("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    h = n.block(n.block(h, 12, 12), 12, 12)
    blocks = reap(n.model(n.head(h, 12, 5)), joint_refit=ENOUGH).report.blocks
    layers = [node for block in blocks for node in block.nodes]
    assert len(layers) == 5
    assert blocks[0].error_after < blocks[0].error_before


def test_layers_in_front_of_recurrent_ones_are_refitted():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 12)
    h = n.node("Transpose", n.node("ReduceMean", h, axes=[2], keepdims=0), perm=[2, 0, 1])
    weights = [n.random(2, 4 * 8, size, scale=0.4) for size in (12, 8)]
    attributes = {"hidden_size": 8, "direction": "bidirectional", "outputs": ["", "last"]}
    n.node("LSTM", h, *weights, name="rnn", **attributes)
    h = n.node("Reshape", n.node("Transpose", "last", perm=[1, 0, 2]), np.array([-1, 16]))
    result = reap(n.model(n.gemm(h, 16, 5)), joint_refit=ENOUGH, target_macs=0.5)
    (block,) = result.report.blocks
    assert len(block.nodes) == 2  # the convolution in front and the dense layer behind
    assert block.error_after < block.error_before


def test_where_nothing_improves_weights_keep_all_their_digits(monkeypatch):
    fine = converted(chain(12), np.dtype("float64"))
    for tensor in fine.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor) * (1 + 1e-9)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    alone = reap(fine, joint_refit=0)
    monkeypatch.setattr(Training, "improve", lambda self, start, *_: (start, 1.0, 1.0))
    assert bare(reap(fine).model) == bare(alone.model)


def test_matmul_layers_with_biases_behind_them():
    alone, joint = (reap(products(), rows(), joint_refit=passes) for passes in (0, ENOUGH))
    assert any(block.error_after < block.error_before for block in joint.report.blocks)
    assert nodes_of(joint.model) == nodes_of(alone.model)


def test_blocks_are_told_with_their_layers():
    result = reap(residual_chain(3, 12))
    layers = [node for node in result.model.graph.node if node.op_type in ("Conv", "Gemm")]
    named = [node for block in result.report.blocks for node in block.nodes]
    assert len(named) == len(set(named)) and set(named) == {node.name for node in layers}
    for block in result.report.to_dict()["blocks"]:
        assert set(block) == {"nodes", "error_before", "error_after", "passes"}
        assert 0 <= block["error_after"] <= block["error_before"]


# It changes weights, and nothing else


def nodes_of(model: onnx.ModelProto) -> list[tuple]:
    return [
        (n.name, n.op_type, *n.input, *n.output, *map(str, n.attribute)) for n in model.graph.node
    ]


@pytest.mark.parametrize("build", [chain, partial(residual_chain, 3, 12)])
def test_nodes_widths_and_interface_stay(build: Callable):
    model = build()
    alone, joint = (reap(model, joint_refit=passes) for passes in (0, ENOUGH))
    assert nodes_of(alone.model) == nodes_of(joint.model)
    shapes = [{n: w.shape for n, w in weights_of(r.model).items()} for r in (alone, joint)]
    assert shapes[0] == shapes[1]
    plans = [json.loads(r.plan.to_json())["groups"] for r in (alone, joint)]
    assert plans[0] == plans[1]
    assert list(joint.model.graph.input) == list(model.graph.input)
    assert list(joint.model.graph.output) == list(model.graph.output)
    assert list(joint.model.opset_import) == list(model.opset_import)
    assert joint.report.after.params == alone.report.after.params
    one, other = (weights_of(r.model) for r in (alone, joint))
    differ = [name for name in one if not np.array_equal(one[name], other[name])]
    read = {
        (node.op_type, place)
        for node in joint.model.graph.node
        for place, name in enumerate(node.input)
        if name in differ
    }
    layers = {(op, place) for op in ("Conv", "Gemm") for place in (1, 2)}
    assert read and read <= layers | {("BatchNormalization", 2)}


def test_no_bias_beyond_those_that_a_target_counts():
    """The first layer has none, and nothing in front of it was cut."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = "x"
    for cin in (3, 12, 12, 12):
        h = n.node("Relu", n.conv(h, cin, 12, bias=False))
    model = n.model(n.head(h, 12, 5))
    for target in (0.4, 0.6, 0.8):
        result = reap(model, target_macs=None, target_params=target)
        first = next(node for node in result.model.graph.node if node.op_type == "Conv")
        assert len(first.input) == 2


def test_no_passes_give_what_there_was_before(monkeypatch: pytest.MonkeyPatch):
    none = reap(residual_chain(3, 12), joint_refit=0, tune=1)
    monkeypatch.setattr(repairs, "refit_jointly", lambda *_, **__: ([], []))
    before = reap(residual_chain(3, 12), joint_refit=0, tune=1)
    assert none.model.SerializeToString() == before.model.SerializeToString()
    assert not none.report.blocks and not said(none)


def test_the_same_twice_is_the_same_to_the_byte():
    one, other = (reap(residual_chain(3, 12)) for _ in range(2))
    assert one.model.SerializeToString() == other.model.SerializeToString()
    assert one.report.blocks == other.report.blocks
    assert bare(one.model) != bare(reap(residual_chain(3, 12), seed=1).model)


def test_nothing_that_is_given_is_modified():
    model, data = residual_chain(3, 12), DATA.copy()
    before = model.SerializeToString()
    reap(model, data)
    assert model.SerializeToString() == before
    assert np.array_equal(data, DATA)


def test_activations_on_disk_are_the_same(monkeypatch: pytest.MonkeyPatch):
    in_memory = reap(residual_chain(3, 12))
    monkeypatch.setattr(stream, "MEMORY", 0)
    assert bare(reap(residual_chain(3, 12)).model) == bare(in_memory.model)


def test_shared_weights_are_left_alone():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 12)
    shared, bias = n.random(12, 12, 3, 3, scale=0.1), n.random(12, scale=0.1)
    for _ in range(2):
        h = n.node("Relu", n.node("Conv", h, shared, bias, pads=[1] * 4))
    h = n.block(n.block(h, 12, 12), 12, 12)
    model = n.model(n.head(h, 12, 5))
    alone, joint = (reap(model, joint_refit=passes) for passes in (1, ENOUGH))
    uses = [node.input[1] for node in joint.model.graph.node if node.op_type == "Conv"]
    assert uses[1] == uses[2]
    (one, other) = (weights_of(r.model) for r in (alone, joint))
    assert np.array_equal(one[uses[1]], other[uses[1]])
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_weights_that_a_body_reads_are_left_alone():
    """A classifier's weight is also used in the body of an If."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Flatten", n.node("GlobalAveragePool", n.block(n.block("x", 3, 12), 12, 12)))
    weight = n.random(12, 5)
    y = n.node("MatMul", h, weight)
    z = chosen(n, weight, "x")
    model = n.model(n.node("Add", y, n.node("ReduceMean", z, keepdims=0)))
    alone, joint = (reap(model, joint_refit=passes) for passes in (1, 3))
    assert np.array_equal(weights_of(alone.model)[weight], weights_of(joint.model)[weight])


def test_frozen_layers_are_refitted_without_being_cut():
    result = reap(residual_chain(3, 12), include=["conv3"], ratio=0.5, target_macs=None)
    cut = [group.name for group in result.report.groups if group.after < group.before]
    assert len(cut) == 1
    behind = [block for block in result.report.blocks if "conv3" in block.nodes]
    assert len(behind) == 1 and len(behind[0].nodes) >= 2
    assert behind[0].error_after < behind[0].error_before


def test_blocks_in_front_of_all_cuts_stay_to_the_bit():
    model = residual_chain(3, 12)
    last = [node.name for node in model.graph.node if node.op_type == "Conv"][-2]
    result = reap(model, include=[last], ratio=0.5, target_macs=None)
    first = result.report.blocks[0]
    assert first.error_before == first.error_after < 1e-9
    old, new = weights_of(model), weights_of(result.model)
    inputs = {node.name: node.input for node in result.model.graph.node}
    for node in first.nodes:
        assert len(inputs[node]) == 2
        assert np.array_equal(old[inputs[node][1]], new[inputs[node][1]])


# Where nothing comes of it, that is said


def test_old_operator_sets_stay_as_they_were_refitted():
    n = Net({"x": ("N", 3, 8, 8)}, opset=10)
    h = n.node("Resize", n.block("x", 3, 12), n.constant([1.0, 1.0, 2.0, 2.0]))
    model = n.model(n.head(n.block(h, 12, 12), 12, 5))
    alone, joint = (reap(model, joint_refit=passes) for passes in (0, 3))
    assert bare(alone.model) == bare(joint.model)
    (why,) = said(joint)
    assert why.startswith("gradients take operator set 11 or newer, and the model is in 10")


def test_too_few_samples():
    assert "too few samples (4)" in said(reap(chain(), images(4)))[0]
    assert "too few" in said(reap(chain(batch=64), images(40)))[0]
    assert "too few samples (7)" in said(reap(chain(), images(7)))[0]
    assert not said(reap(chain(), images(8)))


def test_a_bias_of_one_number_that_several_layers_read():
    n = Net({"x": ("N", 8)})
    h, bias = "x", n.constant(np.array([0.2], np.float32), "bias")
    for width, into in ((8, 12), (12, 10), (10, 8), (8, 6)):
        h = n.node("Relu", n.node("Gemm", h, n.random(width, into, scale=0.4), bias))
    result = reap(n.model(h), np.random.default_rng(0).standard_normal((64, 8), dtype=np.float32))
    assert result.report.blocks
    assert result.report.after.macs < result.report.before.macs


def test_layers_in_front_of_what_stops_gradients_are_reached():
    n = Net({"x": ("N", 3, 8, 8)})
    h = "x"
    for cin in (3, 12, 12):
        h = n.node("Abs", n.conv(h, cin, 12))
    model = n.model(n.node("Softmax", n.head(h, 12, 5), axis=1))
    joint = reap(model, joint_refit=ENOUGH)
    assert not said(joint)
    assert any("gemm8" in block.nodes for block in joint.report.blocks)


def test_it_is_taken_back_where_the_outputs_are_worse_off(monkeypatch: pytest.MonkeyPatch):
    alone = reap(residual_chain(3, 12), joint_refit=0)

    def spoil(run, pruned, *arguments, **named):
        blocks, notes = blockwise.refit_jointly(run, pruned, *arguments, **named)
        node = next(node for node in pruned.nodes if node.op == "Gemm")
        node.inputs[1].values = -node.inputs[1].values
        return blocks, notes

    monkeypatch.setattr(repairs, "refit_jointly", spoil)
    monkeypatch.setattr(trial, "compare", compare)
    joint = reap(residual_chain(3, 12), joint_refit=ENOUGH)
    assert bare(alone.model) == bare(joint.model)
    assert not joint.report.blocks
    assert any("the outputs' error went from" in note for note in joint.report.notes)


def test_python_takes_auto_as_the_command_does():
    assert bare(reap(chain(), joint_refit="auto").model) == bare(
        reap(chain(), joint_refit=None).model
    )


def test_nothing_removed():
    result = reap(chain(), target_macs=1.0)
    assert said(result) == ["no channel was removed"]
    assert bare(result.model) == bare(reap(chain(), target_macs=1.0, joint_refit=None).model)


def test_without_a_refit_there_is_no_joint_one():
    with pytest.raises(UsageError, match="--joint-refit: contradicts --no-refit"):
        reap(chain(), refit=False, joint_refit=3)
    assert reap(chain(), refit=False, joint_refit=0).report.blocks == ()
    assert reap(chain(), refit=False, joint_refit=None).report.blocks == ()


@pytest.mark.parametrize("passes", [-1, 2.5, True, "three"])
def test_passes_are_whole_numbers(passes):
    with pytest.raises(UsageError, match="--joint-refit"):
        reap(chain(), joint_refit=passes)


def test_automatic_passes_are_as_many_as_asked_for_where_there_is_time():
    result = reap(chain(), joint_refit=None)
    assert result.report.blocks
    assert bare(result.model) == bare(reap(chain(), joint_refit=pace.PASSES[0]).model)


def test_no_batch_holds_samples_that_are_fitted_beside_others(monkeypatch: pytest.MonkeyPatch):
    """Of 70 samples 50 are fitted, and 13 are the validation split."""
    sizes = []

    def problem(given, wanted, fitting, together):
        counts = [len(next(iter(given[i].values()))) for i in range(len(given))]
        sizes.append((sum(counts[:fitting]), sum(counts[fitting:])))
        return BlockProblem(given, wanted, fitting, together)

    monkeypatch.setattr(block_walk, "BlockProblem", problem)
    reap(chain(), images(70), joint_refit=1)
    assert sizes
    assert set(sizes) == {(50, 13)}


def test_no_time_left():
    result = reap(chain(), joint_refit=None, time_limit=0.01)
    assert not result.report.blocks
    (note,) = result.report.notes
    assert note.startswith("no time was left to refit layers together: a longer --time-limit")
    assert bare(result.model) == bare(reap(chain(), joint_refit=0).model)
    assert reap(chain(), joint_refit=1, time_limit=0.01).report.blocks


@pytest.mark.usefixtures("all_passes")
def test_blocks_share_a_time_by_their_arithmetic():
    paced = pace.Pace(None, 100.0 / pace.SHARE)
    assert paced.passes(0.5, lambda: 4.9) == 10
    assert not paced.notes()
    assert [paced.passes(0.5, lambda s=s: s) for s in (5.1, 12.0, 75.5, 151.0)] == [7, 3, 0.5, 0]
    (note,) = paced.notes()
    assert "the layers of 4 of 5 blocks were refitted together in 0 to 7 passes instead of" in note
    assert pace.Pace(4, 0.0).passes(0.1, lambda: 1e6) == 4


@pytest.mark.usefixtures("all_passes")
def test_few_passes_may_take_the_time_for_tuning():
    few = pace.SHARE_OF_FEW / pace.SHARE
    assert pace.Pace(None, 100 / pace.SHARE).passes(1, lambda: 19.9) == 5
    assert pace.Pace(None, 100 / pace.SHARE).passes(1, lambda: 34) == 3
    assert pace.Pace(None, 100 / pace.SHARE).passes(1, lambda: few * 33) == 3
    assert pace.Pace(None, 100 / pace.SHARE).passes(1, lambda: few * 34) == 2


@pytest.mark.usefixtures("all_passes")
def test_the_walk_to_the_last_block_takes_time_too():
    assert pace.Pace(None, 100 / pace.SHARE).passes(1, lambda: 9.9, walk=0) == 10
    assert pace.Pace(None, 100 / pace.SHARE).passes(1, lambda: 9.9, walk=30) == 7


def test_reading_the_samples_is_no_part_of_the_walk(monkeypatch):
    """Both models read and decode them once, at the start."""
    advance, walks, taken = stream.ActivationStream.advance, [], pace.Pace.passes

    def slowly(self, model, move):
        begins = self.seconds == 0
        advance(self, model, move)
        self.seconds = self.seconds + 1000 if begins else self.seconds

    def passes(self, share, seconds, walk):
        walks.append(walk)
        return taken(self, share, seconds, walk)

    monkeypatch.setattr(stream.ActivationStream, "advance", slowly)
    monkeypatch.setattr(pace.Pace, "passes", passes)
    reap(residual_chain(5, 16), joint_refit=1)
    assert len(walks) > 3
    assert all(0 < walk < 100 for walk in walks[:-1]) and walks[-1] == 0


def test_blocks_are_left_when_there_is_no_time_for_a_pass(monkeypatch):
    """So that what is left of it goes into tuning."""
    timed = []
    monkeypatch.setattr(Training, "seconds", lambda *_: timed.append(1) or 1e9)
    result = reap(residual_chain(5, 16), joint_refit=None, tune=0)
    assert len(timed) == pace.BLOCKS_TRIED and not result.report.blocks
    assert any("there was no time for it" in note for note in result.report.notes)
    assert bare(result.model) == bare(reap(residual_chain(5, 16), joint_refit=0, tune=0).model)
    timed.clear()
    result = reap(residual_chain(5, 16), joint_refit=1, tune=0)
    assert not timed and len(result.report.blocks) > pace.BLOCKS_TRIED


# Odd models


def chosen(n: Net, *read: str) -> str:
    """An If whose bodies read outer tensors, and which takes the first branch mostly."""
    bodies = []
    for op in ("Relu", "Neg"):
        name = f"{op}_{len(n.nodes)}"
        nodes = [oh.make_node(op, [read[0]], [f"{name}_out"])]
        out = oh.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)
        bodies.append(oh.make_graph(nodes, name, [], [out]))
    total = n.node("ReduceSum", read[-1], keepdims=0)
    yes = n.node("Greater", total, n.constant(np.array(-1e9)))
    return n.node("If", yes, then_branch=bodies[0], else_branch=bodies[1])


def branching() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 12), 12, 12)
    h = n.node("Add", chosen(n, h), h)
    h = n.block(n.block(h, 12, 12), 12, 12)
    return n.model(n.head(h, 12, 5))


def looping() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 12), 12, 12)
    floats = onnx.TensorProto.FLOAT
    body = oh.make_graph(
        [
            oh.make_node("Identity", ["going"], ["going_on"]),
            oh.make_node("Tanh", ["state"], ["state_out"]),
        ],
        "body",
        [
            oh.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            oh.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("state", floats, None),
        ],
        [
            oh.make_tensor_value_info("going_on", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("state_out", floats, None),
        ],
    )
    turns, going = n.constant(np.array(2)), n.constant(np.array(True))
    h = n.node("Loop", turns, going, h, body=body)
    h = n.block(n.block(h, 12, 12), 12, 12)
    return n.model(n.head(h, 12, 5))


def gated() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 12)
    for op in ("Sigmoid", "HardSigmoid"):
        inner = n.block(n.block(h, 12, 16, 1), 16, 16, group=16)
        gate = n.node("Relu", n.conv(n.node("GlobalAveragePool", inner), 16, 8, 1))
        inner = n.node("Mul", inner, n.node(op, n.conv(gate, 8, 16, 1)))
        h = n.node("Add", n.norm(n.conv(inner, 16, 12, 1, bias=False), 12), h)
    return n.model(n.head(h, 12, 5))


def u_shaped() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    one = n.block("x", 3, 12)
    two = n.block(n.node("MaxPool", one, kernel_shape=[2, 2], strides=[2, 2]), 12, 12)
    three = n.block(n.node("MaxPool", two, kernel_shape=[2, 2], strides=[2, 2]), 12, 12)
    h = n.node("ConvTranspose", three, n.random(12, 12, 2, 2, scale=0.2), strides=[2, 2])
    h = n.block(n.node("Concat", h, two, axis=1), 24, 12)
    h = n.node("ConvTranspose", h, n.random(12, 12, 2, 2, scale=0.2), strides=[2, 2])
    h = n.block(n.node("Concat", h, one, axis=1), 24, 12)
    return n.model(n.conv(h, 12, 2, 1))


def recurrent() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 12), 12, 12)
    rows_ = n.node("ReduceMean", h, axes=[2], keepdims=0)
    steps = n.node("Transpose", rows_, perm=[2, 0, 1])
    weights = [n.random(1, 24, 12, scale=0.3), n.random(1, 24, 6, scale=0.3)]
    out = n.node("LSTM", steps, *weights, hidden_size=6)
    last = n.node("Squeeze", out, n.constant(np.array([1])))
    return n.model(n.node("MatMul", n.node("Transpose", last, perm=[1, 0, 2]), n.random(6, 4)))


def shuffled() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 12)
    h = n.block(h, 12, 12, 1, group=2)
    apart = n.node("Reshape", h, n.constant(np.array([0, 2, 6, 8, 8])))
    swapped = n.node("Transpose", apart, perm=[0, 2, 1, 3, 4])
    h = n.node("Reshape", swapped, n.constant(np.array([0, 12, 8, 8])))
    h = n.block(n.block(h, 12, 12, group=2), 12, 12, 1)
    return n.model(n.head(h, 12, 5))


def flattened() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 12, strides=[2, 2]), 12, 8, strides=[2, 2])
    h = n.node("Relu", n.gemm(n.node("Flatten", h), 32, 16))
    return n.model(n.gemm(n.node("Relu", n.gemm(h, 16, 16)), 16, 4))


def one_number_for_all() -> onnx.ModelProto:
    """Gemm with biases of one number."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Flatten", n.node("GlobalAveragePool", n.block(n.block("x", 3, 12), 12, 12)))
    h = n.node("Relu", n.node("Gemm", h, n.random(12, 12), n.random(1)))
    h = n.node("Relu", n.node("Gemm", h, n.random(12, 12), n.constant(np.array(0.3))))
    return n.model(n.node("Gemm", h, n.random(12, 4), n.random(1, 4), beta=0.5))


ODD = {
    "If": branching,
    "Loop": looping,
    "gates": gated,
    "U": u_shaped,
    "LSTM": recurrent,
    "shuffle": shuffled,
    "flatten": flattened,
    "biases of one number": one_number_for_all,
    "fixed batch": partial(chain, batch=4),
    "fixed batch that the samples do not fill": partial(chain, batch=7),
    "batch of one": partial(chain, batch=1),
}


@pytest.mark.parametrize("case", list(ODD))
def test_odd_models_run_and_are_no_worse_on_those_that_judge(case):
    model = ODD[case]()
    result = reap(model, joint_refit=ENOUGH)
    onnx.checker.check_model(result.model, full_check=True)
    blocks = result.report.blocks
    assert blocks and all(block.error_after <= block.error_before for block in blocks)
    gained = any(block.error_after < block.error_before for block in blocks)
    # 57 rows for 300 weights; what the layer in front of an LSTM still makes is as it was.
    assert gained or case in ("biases of one number", "LSTM")
    assert all(np.isfinite(w).all() for w in weights_of(result.model).values())


@pytest.mark.parametrize("listed", [True, False])
def test_several_inputs_and_outputs(listed):
    n = Net({"a": ("N", 3, 8, 8), "b": ("N", 2, 8, 8)})
    both = n.node("Concat", n.block("a", 3, 8), n.block("b", 2, 8), axis=1)
    h = n.block(n.block(both, 16, 12), 12, 12)
    model = n.model(n.head(h, 12, 5), n.conv(h, 12, 2, 1))
    if listed:
        model.graph.input.extend(
            oh.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
        )
    data = {"a": DATA, "b": images(80, channels=2)}
    result = reap(model, data, joint_refit=ENOUGH)
    assert len(result.report.held_out.output_error) == 2
    assert any(b.error_after < b.error_before for b in result.report.blocks)
