"""Residual branches that vanish, along the whole line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from small_models import images, run

import onnx_reap
from onnx_reap import ReapError
from onnx_reap.api import replay
from onnx_reap.data import Calibration, open_calibration, synthetic_calibration
from onnx_reap.data.split import Samples
from onnx_reap.graph.analysis import Analysis, analyse, count_parameters
from onnx_reap.graph.edit.cut import cut_graph
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.context import Clock, Run
from onnx_reap.prune.form import Form
from onnx_reap.prune.plan import Plan
from onnx_reap.prune.refit.layerwise import repair

DATA = images(48)


def weak_and_strong(weak: float = 0.05, *, relu: bool = True) -> onnx.ModelProto:
    """Two residual blocks, of which the first adds little but for its mean."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8)
    for scale in (weak, 1.0):
        b = n.block(h, 8, 12)
        b = n.norm(n.conv(b, 12, 8), 8)
        b = n.node("Mul", b, n.constant(np.full((8, 1, 1), scale)))
        b = n.node("Add", b, n.constant(n.rng.standard_normal((8, 1, 1)) * (1 - scale)))
        h = n.node("Add", h, b)
        h = n.node("Relu", h) if relu else h
    return n.model(n.head(h, 8, 5))


def shrunk(model: onnx.ModelProto, **settings) -> onnx_reap.Result:
    return onnx_reap.reap(model, DATA, **{"target_macs": 0.55, "round_to": 4, **settings})


def vanished(result: onnx_reap.Result) -> list[str]:
    return [group.name for group in result.report.groups if group.after == 0]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a - b).sum() / np.square(b - b.mean(0)).sum())


def test_a_branch_that_does_little_goes_and_the_others_stay_wide():
    model = weak_and_strong()
    result = shrunk(model)
    (gone,) = vanished(result)
    first, second = (g for g in result.report.groups if g.before == 12)
    assert (gone, first.after) == (first.name, 0)
    assert second.after == 12
    thin = shrunk(model, vanish=False)
    assert not vanished(thin)
    want, got, other = (run(m, {"x": DATA})[0] for m in (model, result.model, thin.model))
    assert relative(got, want) < relative(other, want)


def test_figures_are_those_of_the_file():
    result = shrunk(weak_and_strong())
    assert vanished(result)
    inputs = model_inputs(result.model)
    again = analyse(result.model, inputs, synthetic_calibration(inputs, samples=4, seed=0))
    full = np.array([group.width for group in again.groups])
    assert result.report.after.macs == again.macs.at(full)
    assert result.report.after.params == again.params.at(full) == count_parameters(result.model)


def test_the_same_twice():
    first, second = (shrunk(weak_and_strong()) for _ in range(2))
    assert vanished(first)
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_equal_ratios_make_nothing_vanish():
    assert not vanished(onnx_reap.reap(weak_and_strong(), DATA, ratio=0.7))
    assert not vanished(shrunk(weak_and_strong(), allocation="uniform"))


def test_excluded_branches_and_explicit_minima():
    result = shrunk(weak_and_strong())
    (gone,) = vanished(result)
    assert gone not in vanished(shrunk(weak_and_strong(), exclude=[gone]))
    assert vanished(shrunk(weak_and_strong(), min_channels=8)) == [gone]


@pytest.mark.parametrize("relu", [True, False])
def test_the_plan_repeats_the_cut(relu: bool, tmp_path: Path):
    model = weak_and_strong(relu=relu)
    result = shrunk(model)
    (gone,) = vanished(result)
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json())
    assert Plan.load(path) == Plan.from_json(result.plan.to_json())
    (entry,) = [g for g in json.loads(path.read_text())["groups"] if g["name"] == gone]
    assert entry["kept"] == []
    cut, masked = onnx_reap.cut(model, path), onnx_reap.mask(model, path)
    a, b = (run(m, {"x": DATA})[0] for m in (cut, masked))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())  # float32 sums
    assert [n.op_type for n in masked.graph.node] == [n.op_type for n in model.graph.node]
    again = replay(model, path)
    assert vanished(again) == [gone]
    assert again.report.after.macs == result.report.after.macs
    assert again.report.after.params == count_parameters(again.model)


def test_a_plan_that_empties_what_cannot_go_is_refused(tmp_path: Path):
    model = weak_and_strong()
    content = json.loads(shrunk(model).plan.to_json())
    content["groups"][0]["kept"] = []  # the stream that all blocks add to
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ReapError, match="keeps no channels"):
        onnx_reap.cut(model, path)


def test_the_report_says_gone(capsys: pytest.CaptureFixture[str]):
    from rich.console import Console

    from onnx_reap.report.text import print_report

    print_report(shrunk(weak_and_strong()).report, Console(width=100))
    assert "gone" in capsys.readouterr().out


# The refit


def refitted(model: onnx.ModelProto, *, relu: bool):
    """Let the first branch vanish; return outputs, the refitted model and what was fitted."""
    samples = open_calibration(DATA, model_inputs(model))
    analysis = analyse(model, model_inputs(model), samples)
    branch = analysis.branches.every[0]
    return branch, *repaired(analysis, samples, tuple(sorted(branch.units)))


def repaired(analysis: Analysis, samples: Calibration, removed: tuple[int, ...]):
    """Cut and refit; return the model before and after the refit, and what was fitted."""
    pruned = analysis.copy()
    cut_graph(pruned, analysis.probe, analysis.flow, removed, analysis.branches)
    before = pruned.to_proto()
    fit = Samples(samples, samples, None)
    fitted, notes = repair(
        Run(Form(analysis), fit, Settings(), NoProgress(), Clock()), pruned, removed
    )
    assert not notes
    return before, pruned.to_proto(), fitted


@pytest.mark.parametrize("relu", [True, False])
def test_the_mean_of_the_branch_stays_and_no_fit_gets_worse(relu: bool):
    model = weak_and_strong(0.5, relu=relu)
    branch, before, after, fitted = refitted(model, relu=relu)
    assert branch.joins[0].edge[0] in fitted
    assert all(f.error_after <= f.error_before for f in fitted.values())
    want, cut, got = (run(m, {"x": DATA})[0] for m in (model, before, after))
    assert relative(got, want) < relative(cut, want)


def test_without_an_activation_the_constant_is_the_mean_that_is_missing():
    """Where what is added to comes from the original untouched, that is the branch's own mean."""
    model = weak_and_strong(0.5)
    onnx_model = onnx.ModelProto()
    onnx_model.CopyFrom(model)
    branch, _, after, _ = refitted(model, relu=True)
    key, place = branch.joins[0].edge
    node = next(n for n in after.graph.node if n.name == key)
    value = next(t for t in after.graph.initializer if t.name == node.input[place])
    constant = onnx.numpy_helper.to_array(value).ravel()
    onnx_model.graph.output.append(onnx.ValueInfoProto(name=branch.joins[0].tensor))
    mean = run(onnx_model, {"x": DATA})[1].mean(axis=(0, 2, 3))
    # Not equal: rows are sampled, and where Relu clips the sum anyway only its sign matters.
    assert np.corrcoef(constant, mean)[0, 1] > 0.9


def further_back() -> onnx.ModelProto:
    """A branch whose input is done with in the pruned model long before the addition."""
    n = Net({"x": ("N", 3, 8, 8)})
    early = n.block("x", 3, 8)
    h = n.block(n.block(n.block(early, 8, 8), 8, 8), 8, 8)
    b = n.norm(n.conv(n.block(early, 8, 12), 12, 8), 8)
    b = n.node("Mul", b, n.constant(np.full((8, 1, 1), 0.02)))
    h = n.block(n.node("Relu", n.node("Add", h, b)), 8, 8)
    return n.model(n.head(h, 8, 5))


def test_blocks_are_refitted_past_what_only_the_original_still_needs():
    result = shrunk(further_back(), target_macs=0.6, joint_refit=2)
    assert len(vanished(result)) == 1
    assert result.report.held_out is not None


def test_layers_are_refitted_past_what_only_the_original_still_needs(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.refit.walk.TARGET_BYTES", 1)
    monkeypatch.setattr("onnx_reap.measure.activations.frontier.PATIENCE", 1)
    model = further_back()
    samples = open_calibration(DATA, model_inputs(model))
    analysis = analyse(model, model_inputs(model), samples)
    (branch,) = analysis.branches.every
    others = [g for i, g in enumerate(analysis.groups) if i != branch.group]
    _, _, fitted = repaired(
        analysis, samples, (*sorted(branch.units), *(g.units[0] for g in others))
    )
    assert branch.joins[0].edge[0] in fitted
