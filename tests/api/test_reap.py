"""The whole line on small networks: what users ask for is what they get."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from small_models import chain, images, run, weights_of

import onnx_reap
from onnx_reap import ReapError, cut, mask
from onnx_reap.api import replay
from onnx_reap.data import Calibration, synthetic_calibration
from onnx_reap.errors import CheckError, TargetError, UsageError
from onnx_reap.graph.analysis import Analysis, analyse, count_parameters
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.options import BUDGETS
from onnx_reap.prune import context
from onnx_reap.prune.plan import Plan
from onnx_reap.solve.backend import Backend

SHIPPED = Path(__file__).parent.parents[1] / "models"
DATA = images(40)
BASELINE = {"criterion": "l1", "refit": False}


def reap(model, data=None, **settings):
    """Prune to 60 % of the multiply-accumulates where no budget is named, whatever is lost."""
    budget = {} if any(name in settings for name in BUDGETS) else {"target_macs": 0.6}
    return onnx_reap.reap(model, data, **budget, **settings)


def analysed(model: onnx.ModelProto, shapes=None) -> Analysis:
    inputs = model_inputs(model, shapes)
    return analyse(model, inputs, synthetic_calibration(inputs, samples=4, seed=0))


def figures(model: onnx.ModelProto) -> tuple[int, int, int]:
    """MACs, parameters and bytes, counted on a model from scratch."""
    analysis = analysed(model)
    full = np.array([group.width for group in analysis.groups])
    return analysis.macs.at(full), analysis.params.at(full), model.ByteSize()


def bare(model: onnx.ModelProto) -> bytes:
    """The model without metadata."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.metadata_props[:]
    return out.SerializeToString(deterministic=True)


def close(a, b, bound: float = 1e-5) -> bool:
    return bool(np.abs(a - b).max() <= bound * np.abs(a).max())


def mixed() -> onnx.ModelProto:
    """Shortcut, depthwise and grouped convolutions, Concat, no biases."""
    n = Net({"x": ("N", 3, 8, 8)})
    stem = n.block("x", 3, 16)
    h = n.block(n.block(stem, 16, 16, 1), 16, 16, group=16)
    h = n.node("Add", stem, n.norm(n.conv(h, 16, 16, 1, bias=False), 16))
    both = n.node("Concat", n.block(h, 16, 8, group=2), n.conv(h, 16, 8, 1, bias=False), axis=1)
    return n.model(n.head(n.block(both, 16, 12), 12, 5))


# What comes out


@pytest.mark.parametrize("build", [chain, mixed])
@pytest.mark.parametrize("settings", [{}, {"refit": False}, BASELINE, {"criterion": "random"}])
def test_the_report_says_what_a_count_on_the_result_says(build: Callable, settings):
    model = build()
    result = reap(model, DATA, target_macs=0.6, **settings)
    before, after = result.report.before, result.report.after
    assert (before.macs, before.params, before.bytes) == figures(model)
    assert (after.macs, after.params, after.bytes) == figures(result.model)
    assert after.macs <= 0.6 * before.macs < before.macs and after.params < before.params
    widths = {group.name: group.width for group in analysed(result.model).groups}
    assert widths == {group.name: group.after for group in result.report.groups}
    onnx.checker.check_model(result.model, full_check=True)


def test_macs_are_those_that_shapes_tell():
    """Independent of the cost module: a product of the shapes of every convolution."""
    result = reap(chain(), DATA, **BASELINE)
    inferred = onnx.shape_inference.infer_shapes(result.model)
    assert not result.model.graph.value_info  # none that could be stale
    sizes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in inferred.graph.value_info
    }
    weights, total = weights_of(result.model), 0
    for node in result.model.graph.node:
        if node.op_type == "Conv":
            total += weights[node.input[1]].size * sizes[node.output[0]][2] ** 2
        elif node.op_type == "Gemm":
            total += weights[node.input[1]].size
    assert result.report.after.macs == total


def test_the_interface_is_kept():
    model = mixed()
    model.metadata_props.add(key="author", value="me")
    model.doc_string, model.producer_name, model.graph.doc_string = "a", "b", "c"
    for entry in model.graph.output, model.graph.input:
        entry[0].doc_string = "the only one"
    result = reap(model, DATA)
    out = result.model
    assert list(out.graph.input) == list(model.graph.input)
    assert list(out.graph.output) == list(model.graph.output)
    assert out.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert list(out.opset_import) == list(model.opset_import)
    assert out.ir_version == model.ir_version
    assert (out.doc_string, out.producer_name, out.graph.doc_string) == ("a", "b", "c")
    metadata = {entry.key: entry.value for entry in out.metadata_props}
    assert metadata["author"] == "me"
    assert metadata["onnx_reap.version"] == onnx_reap.__version__
    assert json.loads(metadata["onnx_reap.settings"]) == {"target_macs": 0.6}


def test_a_pruned_model_can_be_pruned_again():
    first = reap(mixed(), DATA, target_macs=0.8)
    second = reap(first.model, DATA, target_macs=0.8)
    keys = [entry.key for entry in second.model.metadata_props]
    assert sorted(keys) == ["onnx_reap.settings", "onnx_reap.version"]
    assert second.report.before.params == first.report.after.params
    assert second.report.after.macs < first.report.after.macs
    assert list(second.model.graph.output) == list(first.model.graph.output)


@pytest.mark.parametrize("settings", [{}, {"criterion": "random"}, BASELINE])
def test_the_same_twice_is_the_same_to_the_byte(settings):
    one, two = (reap(mixed(), DATA, **settings) for _ in range(2))
    same = [r.model.SerializeToString(deterministic=True) for r in (one, two)]
    assert same[0] == same[1]
    assert one.plan.to_json() == two.plan.to_json()


def test_a_seed_changes_what_is_random():
    plans = {reap(chain(), criterion="random", refit=False, seed=s).plan.groups for s in (0, 1)}
    assert len(plans) == 2


def test_nothing_that_is_given_is_modified(tmp_path: Path):
    model, data = mixed(), DATA.copy()
    before = model.SerializeToString(deterministic=True)
    path = tmp_path / "in.onnx"
    path.write_bytes(before)
    result = reap(model, data)
    plan = result.plan.to_json()
    for call in (cut, mask, replay):
        call(model, result.plan)
    reap(path, data, **BASELINE)
    assert model.SerializeToString(deterministic=True) == before
    assert path.read_bytes() == before
    assert np.array_equal(data, DATA)
    assert result.plan.to_json() == plan
    assert [p.name for p in tmp_path.iterdir()] == ["in.onnx"]


def test_refitting_helps_and_reap_beats_chance():
    data = images(100)
    errors = {}
    for name, settings in {
        "reap": {},
        "l1": {"criterion": "l1"},
        "random": {"criterion": "random"},
        "reap, cut only": {"refit": False},
        "l1, cut only": BASELINE,
    }.items():
        report = reap(chain(16, seed=3), data, ratio=0.5, positions=16, **settings).report
        assert bool(report.refits) == settings.get("refit", True)
        errors[name] = report.held_out.output_error["gemm11_y"]
    assert errors["reap"] < 0.5 * errors["reap, cut only"]
    assert errors["l1"] < 0.5 * errors["l1, cut only"]
    assert errors["reap"] < errors["random"]


def test_quality_is_told_for_fitted_and_for_other_samples():
    report = reap(chain(), DATA).report
    assert (report.fitted.samples, report.held_out.samples) == (36, 4)
    assert set(report.fitted.output_error) == {"gemm11_y"}
    assert 0 <= report.fitted.output_error["gemm11_y"] < 1
    assert 0 <= report.held_out.top1_agreement <= 1
    assert all(r.error_after <= r.error_before for r in report.refits)
    assert {"load", "analyse", "choose", "cut", "refit", "joint refit", "tuning", "verify"} == set(
        report.seconds
    )


def test_quality_is_the_error_of_the_result():
    model = chain()
    result = reap(model, DATA, **BASELINE)
    a, b = (run(m, {"x": DATA})[0].astype(np.float64) for m in (model, result.model))
    assert result.report.fitted is None  # nothing was fitted
    quality = result.report.held_out
    assert quality.samples == len(DATA)
    error = np.square(a - b).sum() / np.square(a - a.mean(axis=0)).sum()
    assert quality.output_error["gemm11_y"] == pytest.approx(error, rel=1e-4)  # float32 runs
    assert quality.top1_agreement == np.mean(a.argmax(1) == b.argmax(1))


def test_a_few_samples_are_all_fitted_and_that_is_said():
    report = reap(chain(), DATA[:6]).report
    assert report.fitted.samples == 6 and report.held_out is None
    assert any("too few samples (6) to hold some out" in note for note in report.notes)
    assert any("too few samples (6) for the unknowns of gemm11" in note for note in report.notes)


def test_enough_samples_are_no_reason_to_warn():
    assert reap(chain(), images(30)).report.notes == ()


# Budgets


@pytest.mark.parametrize("settings", [{}, {"refit": False}, BASELINE])
@pytest.mark.parametrize(
    "targets",
    [
        {"target_macs": 0.5},
        {"target_params": 0.5},
        {"target_macs": 200_000},
        {"target_params": 3_000},
        {"target_macs": 0.7, "target_params": 0.45},
        {"target_macs": 0.4, "target_params": 0.7},
    ],
)
def test_targets_are_met_and_not_by_far(targets, settings):
    report = reap(chain(), DATA, round_to=1, **targets, **settings).report
    spare = []
    for name, target in targets.items():
        before, after = (
            getattr(f, name.removeprefix("target_")) for f in (report.before, report.after)
        )
        limit = target * before if target <= 1 else target
        assert after <= limit
        spare.append(after / limit)
    assert max(spare) > 0.9


def test_biases_that_the_refit_adds_count_towards_the_target():
    n = Net({"x": ("N", 3, 8, 8)})
    h = "x"
    for cin in (3, 12, 12, 12):
        h = n.node("Relu", n.conv(h, cin, 12, bias=False))
    model = n.model(n.head(h, 12, 5))
    biases = []
    for target in (0.3, 0.6, 0.9):
        result = reap(model, DATA, target_params=target, round_to=1, positions=8)
        assert count_parameters(result.model) <= target * count_parameters(model)
        biases.append(len(weights_of(result.model)) - len(weights_of(model)))
    assert max(biases) >= 2


def test_biases_count_towards_a_target_that_is_met_before_the_cut_too():
    n = Net({"x": ("N", 3, 8, 8)})
    h = "x"
    for cin in (3, *[4] * 7):
        h = n.node("Relu", n.conv(h, cin, 4, 1, bias=False))
    model = n.model(n.head(h, 4, 5))
    more = {"target_params": 1.0, "include": ["conv0"], "round_to": 1}  # seven layers behind it
    with pytest.raises(TargetError, match="--target-params: can't be reached"):
        reap(model, DATA, target_macs=0.97, **more)
    result = reap(model, DATA, target_macs=0.97, refit=False, **more)
    assert count_parameters(result.model) < count_parameters(model)


@pytest.mark.parametrize(
    ("count", "target"), [("macs_left", "target_macs"), ("count_parameters", "target_params")]
)
def test_a_result_beyond_the_target_is_refused(count, target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"onnx_reap.prune.apply.{count}", lambda *_: 123_456_789)
    with pytest.raises(TargetError, match=r"not met by the result \| got: 123,456,789 \| expected"):
        reap(chain(), DATA, **{target: 0.5})
    reap(chain(), DATA, ratio=0.5)


def test_without_a_budget_and_data_60_percent_of_the_macs_are_left():
    report = onnx_reap.reap(chain(), **BASELINE).report
    assert report.after.macs <= 0.6 * report.before.macs
    assert reap(chain(), target_macs=0.6, **BASELINE).report.after.macs == report.after.macs


def test_without_a_budget_but_with_data_at_most_one_percent_is_lost():
    features = chain()
    del features.graph.node[-1]  # more than classes: any change is a loss
    features.graph.output[0].name = features.graph.node[-1].output[0]
    for dim in features.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    report = onnx_reap.reap(features, images(400)).report
    assert report.loss.limit == 0.01
    assert 0 < report.loss.likely <= 0.01
    assert report.after.macs < report.before.macs


def test_a_ratio_holds_for_every_group():
    for settings in ({}, BASELINE):
        groups = reap(chain(16), DATA, ratio=0.25, **settings).report.groups
        assert [(g.before, g.after) for g in groups] == [(16, 12)] * 3


def test_ratios_by_layer(tmp_path: Path):
    ratios = {"conv0": 0.5, "conv[36]": 0.25}
    path = tmp_path / "ratios.json"
    path.write_text(json.dumps(ratios))
    for given in (ratios, path, str(path)):
        groups = reap(chain(), DATA, layer_ratios=given, **BASELINE).report.groups
        assert [g.after for g in groups] == [8, 12, 12]
    groups = reap(chain(), DATA, layer_ratios={"conv6": 0.5}).report.groups
    assert [g.after for g in groups] == [16, 16, 8]


def test_exclude_and_include():
    only = {"conv3": 8}
    for settings in ({"exclude": ["conv0", "conv6"]}, {"include": ["c*3"]}):
        report = reap(chain(), DATA, ratio=0.5, **BASELINE, **settings).report
        assert {g.name: g.after for g in report.groups} == only
        reasons = {row.node: row.reason for row in report.frozen}
        assert reasons["conv0"] == reasons["conv6"] != "graph output"


def test_a_single_glob_and_arrays_will_do():
    more = {"ratio": 0.5, **BASELINE}
    one = reap(chain(), DATA, exclude="conv[06]", mean=np.array([0.1, 0.2, 0.3]), **more)
    two = reap(chain(), DATA, exclude=["conv[06]"], mean=(0.1, 0.2, 0.3), **more)
    assert one.plan.groups == two.plan.groups
    assert {g.name for g in one.report.groups} == {"conv3"}


def test_min_channels_and_rounding():
    for settings, widths in [
        ({"min_channels": 11, "round_to": 1, "ratio": 0.9}, {11}),
        ({"min_channels": 9, "ratio": 0.9}, {12}),
        ({"round_to": 5, "ratio": 0.6}, {5}),
        ({"ratio": 0.4}, {8}),
        ({"ratio": 0.4, "round_to": 1}, {10}),
    ]:
        groups = reap(chain(), DATA, **BASELINE, **settings).report.groups
        assert {g.after for g in groups} == widths


def test_a_target_that_is_met_already_removes_nothing_and_says_so():
    model = chain()
    for target in ({"target_macs": 1.0}, {"target_params": 10_000_000}):
        result = reap(model, DATA, **target)
        assert result.report.notes == ("the model already meets the budget: nothing was removed",)
        assert weights_of(result.model).keys() == weights_of(model).keys()
        assert all(
            a.tobytes() == b.tobytes()
            for a, b in zip(
                weights_of(result.model).values(), weights_of(model).values(), strict=True
            )
        )


# Data


def test_nothing_to_estimate_needs_no_data_and_runs_none(monkeypatch: pytest.MonkeyPatch):
    fed = []
    batches = Calibration.batches

    def watched(self, size, **options):
        for feed in batches(self, size, **options):
            fed.append(len(feed["x"]))
            yield feed

    monkeypatch.setattr(Calibration, "batches", watched)
    report = reap(chain(), **BASELINE).report
    assert report.notes == () and report.fitted is None and report.held_out is None
    assert sum(fed) < 16  # the probe, the check of the cut, and the latency
    fed.clear()
    reap(chain(), samples=64, **{**BASELINE, "refit": True})
    assert sum(fed) > 64  # the oracle


def test_without_data_samples_are_made_up_and_that_is_said():
    report = reap(chain(), samples=32).report
    assert "synthetic, matched to BatchNormalization (32 samples)" in report.calibration
    assert any("no --data" in note for note in report.notes)
    assert report.refits and report.held_out.samples == 3


@pytest.mark.parametrize("batch", [1, 4])
def test_models_of_fixed_batch(batch):
    model = chain(batch=batch)
    result = reap(model, DATA[:30], ratio=0.5, round_to=1)
    assert result.model.graph.input[0] == model.graph.input[0]
    free = reap(chain(), DATA[:30], ratio=0.5, round_to=1)
    macs = [r.report.after.macs for r in (result, free)]
    assert macs[0] == macs[1]  # per sample
    assert result.report.fitted.samples == 27
    # Batches that are filled up weigh no more: the errors are those of the free model.
    x = DATA[:28].reshape(-1, batch, *DATA.shape[1:])
    a, b = (np.concatenate([run(m, {"x": part})[0] for part in x]) for m in (model, result.model))
    assert np.square(a - b).sum() < np.square(a - a.mean(axis=0)).sum()
    other = reap(model, DATA[:30], **BASELINE).report.held_out
    want = reap(chain(), DATA[:30], **BASELINE).report.held_out
    assert other.output_error["gemm11_y"] == pytest.approx(want.output_error["gemm11_y"], rel=1e-3)


def test_dynamic_sizes_come_from_the_data_or_from_input_shapes():
    model = chain(size="S")
    assert reap(model, DATA).report.before.macs == reap(chain(), DATA).report.before.macs
    shaped = reap(model, input_shapes={"x": (1, 3, 8, 8)}, samples=8)
    assert shaped.report.before.macs == reap(chain(), DATA).report.before.macs
    assert shaped.model.graph.input[0] == model.graph.input[0]
    plan = shaped.plan
    shapes = {"x": (1, 3, 12, 12)}
    a, b = cut(model, plan, input_shapes=shapes), mask(model, plan, input_shapes=shapes)
    x = {"x": images(2, 10)}
    assert close(run(a, x)[0], run(b, x)[0])
    with pytest.raises(ReapError, match=r"dynamic.* --input-shapes"):
        cut(model, replace(plan, input_shapes={}))


def test_several_inputs_and_outputs():
    n = Net({"x": ("N", 3, 8, 8), "z": ("N", 4)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    pooled = n.node("Flatten", n.node("GlobalAveragePool", h))
    side = n.node("Relu", n.gemm("z", 4, 16))
    both = n.node("Relu", n.gemm(n.node("Concat", pooled, side, axis=1), 32, 16))
    scores, map_ = n.gemm(both, 16, 5), n.conv(h, 16, 2, 1)
    best = n.node("ArgMax", scores, axis=1, keepdims=0)
    model = n.model(scores, map_, best)
    data = {"x": DATA, "z": DATA[:, 0, 0, :4]}
    result = reap(model, data, ratio=0.25)
    assert [g.after for g in result.report.groups] == [12] * 4
    assert set(result.report.held_out.output_error) == {scores, map_}
    assert any(f"no output error of {best}" in note for note in result.report.notes)
    assert list(result.model.graph.output) == list(model.graph.output)
    assert [o.shape for o in run(result.model, data)] == [o.shape for o in run(model, data)]


# Plans


@pytest.mark.parametrize("build", [chain, mixed])
def test_a_cut_is_a_run_that_estimates_nothing(build: Callable):
    model = build()
    result = reap(model, **BASELINE)
    assert bare(cut(model, result.plan)) == bare(result.model)


@pytest.mark.parametrize("build", [chain, mixed])
def test_cut_and_mask_are_the_same_function(build: Callable):
    model = build()
    plan = reap(model, DATA).plan
    a, b, full = (run(m, {"x": DATA})[0] for m in (cut(model, plan), mask(model, plan), model))
    assert close(a, b)
    assert not close(full, b, 1e-2)  # the oracle


@pytest.mark.parametrize("build", [chain, mixed])
def test_mask_touches_nothing_but_the_weights_of_consumers(build: Callable):
    model = build()
    plan = reap(model, DATA).plan
    masked = mask(model, plan)
    before, after = weights_of(model), weights_of(masked)
    assert before.keys() == after.keys()
    nodes = {node.name: node for node in model.graph.node}
    read = {nodes[name].input[1] for group in plan.groups for name in group.consumers}
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed and changed <= read
    for name in changed:
        assert ((before[name] == after[name]) | (after[name] == 0)).all()
    for tensor, old in zip(masked.graph.initializer, model.graph.initializer, strict=True):
        tensor.CopyFrom(old)
    assert masked == model


def test_mask_keeps_nodes_that_only_compute_constants():
    n = Net({"x": ("N", 3, 8, 8)})
    weight = n.rng.standard_normal((6, 4, 3, 3)).astype(np.float32)
    fixed = n.node("Constant", value=onnx.numpy_helper.from_array(weight))
    passed = n.node("Identity", n.random(5, 6, 1, 1), name="pass")
    h = n.node("Relu", n.node("Conv", n.node("Relu", n.conv("x", 3, 4)), fixed, name="a"))
    model = n.model(n.head(n.node("Conv", h, passed, name="b"), 5, 3))
    plan = reap(model, round_to=1, ratio=0.5, **BASELINE).plan
    masked = mask(model, plan)
    assert [node.name for node in masked.graph.node] == [node.name for node in model.graph.node]
    a, b, full = (run(m, {"x": DATA})[0] for m in (cut(model, plan), masked, model))
    assert close(a, b) and not close(full, b, 1e-2)


def test_masks_leave_alone_what_else_reads_a_weight():
    """A weight that is data too, by way of nodes that only compute constants."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8)
    weight = n.random(6, 8, 1, 1)
    y = n.node("GlobalAveragePool", n.node("Conv", h, weight))
    data = n.node("ReduceSum", n.node("Abs", weight), keepdims=0)
    model = n.model(n.node("Add", n.node("Flatten", y), data))
    plan = onnx_reap.reap(model, ratio=0.5, criterion="l1", refit=False).plan
    masked, cut = onnx_reap.mask(model, plan), onnx_reap.cut(model, plan)
    feed = {"x": images(2)}
    np.testing.assert_allclose(run(masked, feed)[0], run(cut, feed)[0], rtol=1e-4)


def test_a_plan_from_a_file_is_replayed_and_can_be_edited(tmp_path: Path):
    model = mixed()
    result = reap(model, DATA)
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json())
    again = replay(model, path)
    assert bare(again.model) == bare(cut(model, result.plan))
    assert again.plan.groups == result.plan.groups
    assert again.report.after.macs == result.report.after.macs
    assert again.report.fitted is None and again.report.notes == ()
    content = json.loads(path.read_text())
    edited = next(g for g in content["groups"] if g["width"] == 12)
    edited["kept"] = list(range(edited["width"] - 2))
    content["groups"] = [edited]
    path.write_text(json.dumps(content))
    widths = {g.name: (g.before, g.after) for g in replay(model, path).report.groups}
    changed = {name for name, (before, after) in widths.items() if before != after}
    assert changed == {edited["name"]} and widths[edited["name"]][1] == edited["width"] - 2


def test_no_samples_are_matched_to_repeat_a_plan(monkeypatch: pytest.MonkeyPatch):
    model = chain(8)
    plan = reap(model, DATA, target_macs=0.6).plan

    def refuse(*_args, **_keywords):
        raise AssertionError("statistics are matched")

    monkeypatch.setattr(context, "with_matched_samples", refuse)
    cut(model, plan)
    with pytest.raises(AssertionError, match="matched"):
        reap(model, target_macs=0.6)


def test_a_plan_names_the_slices_of_every_constant():
    """Slicing the constants by the plan alone gives those of the cut model, grouped ones too."""
    model = mixed()
    plan = reap(model, ratio=0.5, **BASELINE).plan
    before, after = weights_of(model), weights_of(cut(model, plan))
    grouped = 0
    for name, axes in plan.constants.items():
        values = before[name]
        inner = {int(a): k for a, k in axes.items() if isinstance(k[0], list)}
        for axis, lists in inner.items():
            grouped += 1
            other = 1 - axis
            blocks = np.split(values, len(lists), other)
            values = np.concatenate(
                [np.take(b, k, axis) for b, k in zip(blocks, lists, strict=True)], other
            )
        for axis, kept in axes.items():
            if int(axis) not in inner:
                values = np.take(values, kept, int(axis))
        assert np.array_equal(values, after[name]), name
    assert grouped
    changed = {n for n in before if before[n].shape != after[n].shape}
    assert changed == set(plan.constants)


def test_sizes_that_the_model_leaves_open_are_those_of_the_plan():
    plan = reap(chain(size="S"), DATA).plan
    assert plan.input_shapes["x"][1:] == (3, 8, 8)
    again = Plan.from_json(plan.to_json())
    for model in (chain(size="S"), chain(size=12), chain(size="S", batch=4)):
        a, b = cut(model, again), mask(model, again)
        x = {"x": images(4, 12)}
        assert close(run(a, x)[0], run(b, x)[0])
    assert replay(chain(size="S"), again).plan.input_shapes == again.input_shapes


def halves() -> onnx.ModelProto:
    """A convolution split in two; one half is added to what another convolution makes."""
    n = Net({"x": ("N", 3, 8, 8)})
    first, second = n.node("Split", n.conv("x", 3, 16), outputs=2, axis=1, name="split")
    joined = n.node("Add", first, n.conv("x", 3, 8, name="other"))
    both = n.node("Concat", n.node("Relu", joined), n.node("Tanh", second), axis=1)
    return n.model(n.head(n.conv(both, 16, 8, name="last"), 8, 5))


@pytest.mark.parametrize("settings", [{"exclude": ["other"]}, {"include": ["conv0", "last"]}])
def test_a_plan_with_exclusions_is_replayed_with_them(settings):
    model = halves()
    result = reap(model, ratio=0.5, round_to=1, **settings, **BASELINE)
    plan = Plan.from_json(result.plan.to_json())
    assert bare(cut(model, plan)) == bare(result.model)
    again = replay(model, plan)
    assert (again.plan.groups, again.plan.frozen) == (plan.groups, plan.frozen)
    assert bare(cut(model, again.plan)) == bare(result.model)
    for call in (cut, mask, replay):  # as the groups are without exclusions
        with pytest.raises(ReapError, match=r"group conv[0-9] doesn't fit the model .* to "):
            call(model, replace(plan, settings={}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"producers": ["conv3"]}, "got: 16 channels from conv3 to conv3 | expected: 16 channels"),
        ({"consumers": ["conv0"]}, "got: 16 channels from conv0 to conv0 | expected: 16 channels"),
        ({"name": "nobody"}, "group nobody doesn't fit the model"),
        ({"width": 5}, "doesn't fit the model | got: 5 channels from conv0"),
        ({"kept": []}, "keeps no channels | expected: one at least, since no residual branch"),
        ({"kept": [0, 99]}, "keeps channels that don't exist"),
        ({"kept": [-1]}, "keeps channels that don't exist"),
    ],
)
def test_plans_that_do_not_fit_are_refused(change, message, tmp_path: Path):
    model = chain()
    content = json.loads(reap(model, **BASELINE).plan.to_json())
    content["groups"][0] |= change
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    for call in (cut, mask, replay):
        with pytest.raises(ReapError) as refusal:
            call(model, path)
        assert message in str(refusal.value)


def test_parts_of_grouped_convolutions_must_stay_equal(tmp_path: Path):
    n = Net({"x": ("N", 3, 8, 8)})
    model = n.model(n.head(n.conv(n.block("x", 3, 8), 8, 8, group=2), 8, 5))
    content = json.loads(reap(model, round_to=1, **BASELINE).plan.to_json())
    content["groups"][0]["kept"] = [0, 1, 2, 5]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ReapError, match="equally many channels in each part"):
        cut(model, path)
    content["groups"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(ReapError, match="is there twice"):
        cut(model, path)


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"nonsense": 1},
        {"ratio": 0},
        {"ratio": 1.0},
        {"ratio": "half"},
        {"ratio": 0.5, "target_macs": 0.5},
        {"ratio": 0.5, "layer_ratios": {"conv0": 0.5}},
        {"target_macs": -1},
        {"target_params": float("nan")},
        {"target_params": float("inf")},
        {"min_channels": 0},
        {"min_channels": None},
        {"round_to": 0},
        {"round_to": 2.5},
        {"positions": True},
        {"samples": 0},
        {"seed": -1},
        {"criterion": "l3"},
        {"exclude": 3},
        {"exclude": [3]},
        {"include": {"conv0": 1}},
        {"provider": 5},
        {"input_shapes": 5},
        {"input_shapes": {"x": 5}},
        {"input_shapes": {"x": "1,3,8,8"}},
        {"input_shapes": {"x": (1, 3, 8, 0)}},
        {"layer_ratios": 0.5},
        {"mean": "a"},
        {"mean": ["a"]},
        {"std": {}},
        {"scale": "2"},
        {"scale": [1.0, "x"]},
        {"refit": "no"},
        {"resize": "a"},
        {"crop": [1, 2, [3]]},
        {"color": ["rgb"]},
        {"input_shapes": {"nobody": (1,)}},
        {"input_shapes": {"x": (1, 4, 8, 8)}},
        {"input_shapes": {"x": (1, 3)}},
    ],
)
def test_settings_without_sense_are_usage_errors(settings):
    with pytest.raises(UsageError):
        reap(chain(), DATA, **settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"exclude": ["conv9"]}, ReapError, "--exclude: matches no node | got: conv9"),
        ({"include": ["/x/*"]}, ReapError, "--include: matches no node"),
        ({"exclude": ["conv*"]}, ReapError, "no channel that may be removed"),
        ({"layer_ratios": {"conv9": 0.5}}, ReapError, "--layer-ratios: no prunable channels"),
        ({"layer_ratios": {"conv0": 2}}, ReapError, "--layer-ratios: not ratios by name"),
        ({"layer_ratios": "missing.json"}, ReapError, "can't be read"),
        (
            {"min_channels": 16},
            TargetError,
            "no group has an allowed width below its present one | got: --min-channels 16",
        ),
        ({"min_channels": 16, "ratio": 0.5}, TargetError, "no group has an allowed width"),
        ({"ratio": 0.01}, TargetError, "the ratio removes nothing"),
        ({"layer_ratios": {"conv0": 0.01}}, TargetError, "at least 0.125"),
        ({"target_macs": 0.001}, TargetError, "--target-macs: can't be reached"),
        ({"target_params": 200}, TargetError, "--target-params: can't be reached | got: 200 |"),
        ({"target_macs": 0.5, "min_channels": 14, "round_to": 1}, TargetError, "can't be reached"),
        ({"provider": "abacus"}, ReapError, "--provider: unknown"),
    ],
)
def test_what_can_not_be_reached_is_refused_before_calibration(
    settings, error, message, monkeypatch: pytest.MonkeyPatch
):
    def calibrated(*_args, **_kwargs):
        raise AssertionError("calibration has begun")

    monkeypatch.setattr("onnx_reap.prune.pruning_curves.capture_moments", calibrated)
    with pytest.raises(error) as refusal:
        reap(chain(), DATA, **settings)
    assert type(refusal.value) is error and message in str(refusal.value)


def test_the_least_ratio_that_is_named_removes_something():
    assert (
        reap(chain(), DATA, layer_ratios={"conv0": 0.125}, **BASELINE).report.groups[0].after == 12
    )


@pytest.mark.parametrize(
    ("provider", "wanted"),
    [(None, True), ("cpu", False), ("CPU", False), ("CPUExecutionProvider", False)],
)
def test_the_provider_says_whether_the_solver_may_use_a_gpu(
    provider, wanted, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(Backend, "gpu", lambda: asked.append(True))
    reap(chain(), images(20), provider=provider, target_macs=0.6)
    assert bool(asked) == wanted


def test_macs_are_those_of_one_sample_though_no_output_has_a_batch_axis():
    n = Net({"x": ("N", 3, 8, 8)})
    scores = n.head(n.block("x", 3, 16), 16, 4)
    both = [
        n.model(*outputs) for outputs in ((scores,), (n.node("ReduceMean", scores, keepdims=0),))
    ]
    plain, scalar = (reap(m, DATA, ratio=0.5, **BASELINE).report.before.macs for m in both)
    assert scalar == plain


# Verification


def test_a_wrong_cut_is_noticed(monkeypatch: pytest.MonkeyPatch):
    from onnx_reap.prune import apply as making

    right = making.cut_graph

    def wrong(model, *arguments):
        right(model, *arguments)
        constant = next(c for name, c in model.constants().items() if name == "c5")
        constant.values = np.roll(constant.values, 1, axis=1)

    monkeypatch.setattr(making, "cut_graph", wrong)
    with pytest.raises(CheckError, match="the cut model is not the masked model"):
        reap(chain(), DATA)


# The shipped model


@pytest.mark.skipif(not (SHIPPED / "fashion_resnet.onnx").exists(), reason="models/ is missing")
def test_the_shipped_model_with_few_samples(tmp_path: Path):
    model = SHIPPED / "fashion_resnet.onnx"
    result = reap(
        model,
        SHIPPED / "fashion_calib.npz",
        target_macs=0.95,
        samples=24,
        positions=8,
        include=["*blocks.4*"],
    )
    report = result.report
    assert report.after.macs <= 0.95 * report.before.macs
    assert (report.after.macs, report.after.params, report.after.bytes) == figures(result.model)
    assert report.held_out.samples == 2
    assert len(report.refits) == 2
    original = onnx.load(model)
    assert list(result.model.graph.input) == list(original.graph.input)
    assert list(result.model.graph.output) == list(original.graph.output)


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_channels_that_meet_a_broadcast_input_stay(op):
    n = Net({"x": ("N", 3, 8, 8), "s": ("N", 16, 1, 1)})
    h = n.node(op, n.block("x", 3, 16), "s")
    h = n.block(h, 16, 16)
    model = n.model(n.head(h, 16, 4))
    gates = np.random.default_rng(0).random((24, 16, 1, 1), np.float32)
    report = onnx_reap.reap(model, {"x": images(), "s": gates}, target_macs=0.9).report
    assert [group.before for group in report.groups] == [16]
    assert any(op in frozen.reason for frozen in report.frozen)


def test_targets_between_a_fraction_and_a_number_are_refused():
    with pytest.raises(UsageError, match=r"try: 0\.6"):
        onnx_reap.reap(chain(), images(), target_macs=60)


def test_models_on_integers_are_refused_with_the_way_round():
    n = Net({"x": ("N", 16)})
    x, scale, zero = n.node("DynamicQuantizeLinear", "x", outputs=3)
    weight = n.constant(np.ones((16, 4), np.uint8))
    y = n.node("MatMulInteger", x, weight, zero, n.constant(np.uint8(0)))
    y = n.node("Mul", n.node("Cast", y, to=1), scale)
    with pytest.raises(ReapError, match="quantise the result"):
        onnx_reap.reap(n.model(y), np.ones((8, 16), np.float32))


@pytest.mark.parametrize("path", [3, None, b"out.onnx"])
def test_a_result_is_saved_to_a_path_only(path):
    result = onnx_reap.reap(chain(), target_macs=0.6, criterion="l1", refit=False)
    with pytest.raises(onnx_reap.ReapError, match=r"path: no path \| got: "):
        result.save(path)
