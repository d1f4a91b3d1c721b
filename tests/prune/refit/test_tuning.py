"""Whole runs that tune the network: it helps where it can, and harms nowhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from net import Net
from nets import mobile, residual_chain
from precision import converted
from quantised import quantised, residual
from small_models import bare, chain, images, run

import onnx_reap
from onnx_reap.data.augment import Augment
from onnx_reap.errors import ReapError, UsageError
from onnx_reap.graph.epilogue import affine_map
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.paired import Pair
from onnx_reap.prune.refit import repairs, trial, tuning
from onnx_reap.prune.refit.network import Distance

NEARER = Pair(1.0, 0.5, 0.1, 1.0)  # for what is about something else than the judge

DATA = images(200)
OTHERS = images(400, seed=9)


def reap(model: onnx.ModelProto, data=DATA, **settings) -> onnx_reap.Result:
    chosen = {"target_macs": 0.5, "round_to": 1, "allocation": "local", "joint_refit": 0}
    return onnx_reap.reap(model, data, **chosen | settings)


def error(model: onnx.ModelProto, pruned: onnx.ModelProto, feed: dict) -> float:
    want, got = (run(each, feed)[0] for each in (model, pruned))
    return float(np.square(got - want).sum() / np.square(want - want.mean(0)).sum())


# It helps


@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_on_other_samples_falls(seed):
    model = residual_chain(3, 16, seed=seed)
    alone, tuned = (reap(model, tune=passes, seed=seed, augment="none") for passes in (0, 30))
    before, after = (error(model, each.model, {"x": OTHERS}) for each in (alone, tuned))
    assert after < 0.95 * before
    fit = tuned.report.network
    assert alone.report.network is None
    assert fit.passes in (15, 30)  # of a short descent, of the long one
    assert fit.after.blocks < fit.before.blocks
    assert fit.moved > 0
    assert not fit.left


def test_it_comes_behind_the_joint_refit():
    model = residual_chain(3, 16)
    joint, both = (reap(model, joint_refit=10, tune=passes) for passes in (0, 30))
    assert both.report.blocks == joint.report.blocks
    assert error(model, both.model, {"x": OTHERS}) < error(model, joint.model, {"x": OTHERS})


def test_outputs_that_are_no_scores_come_nearer():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    model = n.model(n.conv(h, 16, 2))
    alone, tuned = (reap(model, tune=passes) for passes in (0, 20))
    assert tuned.report.network.after.divergence is None
    assert tuned.report.network.after.outputs < tuned.report.network.before.outputs
    before, after = (error(model, each.model, {"x": OTHERS}) for each in (alone, tuned))
    assert after < before


def test_probabilities_are_compared_as_such():
    n = Net({"x": ("N", 3, 8, 8)})
    h = "x"
    for cin in (3, 16, 16, 16):
        h = n.block(h, cin, 16)
    model = n.model(n.node("Softmax", n.node("Mul", n.head(h, 16, 5), np.array(8.0))))
    fit = reap(model, tune=60, augment="none").report.network
    assert fit.after.divergence < fit.before.divergence


def test_layers_with_depth_and_gates_move():
    fit = reap(mobile(), tune=10).report.network
    assert not fit.left
    assert fit.after.change_from(fit.before) < 0


# It changes weights, and nothing else


def test_nodes_widths_and_interface_stay():
    model = residual_chain(2, 12)
    alone, tuned = (reap(model, tune=passes) for passes in (0, 5))
    assert [node.name for node in tuned.model.graph.node] == [
        node.name for node in alone.model.graph.node
    ]
    assert tuned.report.after.params == alone.report.after.params
    assert tuned.report.after.macs == alone.report.after.macs
    assert tuned.plan.groups == alone.plan.groups


def test_the_same_run_gives_the_same_file():
    first, second = (reap(chain(12), tune=4) for _ in range(2))
    assert bare(first.model) == bare(second.model)


def test_statistics_of_normalisations_stay():
    model = residual_chain(2, 12)
    alone, tuned = (reap(model, tune=passes) for passes in (0, 5))
    names = {
        name
        for node in alone.model.graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:]
    }
    for result in (alone, tuned):
        found = {t.name: t for t in result.model.graph.initializer}
        assert names <= found.keys()
    given = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert names & given.keys()
    for name in names & given.keys():
        kept = onnx.numpy_helper.to_array(found[name])
        assert set(kept.tolist()) <= set(given[name].tolist())


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_types(kind):
    model = converted(residual_chain(2, 12), np.dtype(kind))
    result = reap(model, DATA.astype(kind), tune=30)
    onnx.checker.check_model(result.model)
    fit = result.report.network
    assert fit.after.change_from(fit.before) < 0
    kinds = {
        onnx.helper.tensor_dtype_to_np_dtype(t.data_type) for t in result.model.graph.initializer
    }
    assert np.dtype(kind) in kinds
    assert np.dtype(np.float32) not in kinds


def test_a_fixed_batch():
    result = reap(chain(12, batch=8), tune=10)
    assert result.report.network is not None


def test_zeros_stay_zero(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "compare", lambda *_: NEARER)
    model = residual_chain(2, 16)
    settings = {"target_macs": None, "pattern": "2:4"}
    less, tuned = (reap(model, tune=passes, **settings) for passes in (1, 20))
    assert tuned.report.network.after.change_from(tuned.report.network.before) < 0
    zeros = [
        {t.name: onnx.numpy_helper.to_array(t) == 0 for t in each.model.graph.initializer}
        for each in (less, tuned)
    ]
    assert zeros[0].keys() == zeros[1].keys()
    weights = [name for name, mask in zeros[0].items() if mask.ndim > 1 and mask.mean() > 0.4]
    assert len(weights) > 3
    for name in weights:
        np.testing.assert_array_equal(zeros[0][name], zeros[1][name])


@pytest.mark.parametrize(("kind", "told"), [("signal", 1), ("image", 0), ("auto", 0)])
def test_copies_that_cannot_be_made_are_told(kind: str, told: int):
    notes = reap(residual_chain(2, 12), tune=1, augment=kind).report.notes
    assert sum("--augment signal changed nothing" in note for note in notes) == told


def test_copies_that_only_repairs_by_gradient_fit_are_told():
    notes = reap(residual_chain(2, 12), joint_refit=0, tune=0, augment="image").report.notes
    assert any("--augment image changed nothing" in note for note in notes)


def test_numbers_of_passes_are_the_same_whatever_the_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "compare", lambda *_: NEARER)
    settings = {"joint_refit": 1, "tune": 1, "augment": "image"}
    late, early = (reap(residual_chain(2, 12), time_limit=t, **settings) for t in (0.01, 300))
    assert bare(late.model) == bare(early.model)


def test_repairs_that_fail_are_taken_back(monkeypatch: pytest.MonkeyPatch):
    model = residual_chain(2, 12)
    alone = reap(model, joint_refit=0, tune=0)

    def fails(run, pruned, *_, **__):
        for constant in pruned.constants().values():
            constant.values = constant.values * 0
        raise ReapError("onnxruntime can't run the model")

    monkeypatch.setattr(repairs, "tune_network", fails)
    tried = reap(model, joint_refit=0, tune=1)
    assert bare(alone.model) == bare(tried.model)
    why = "the network was not tuned: onnxruntime can't run the model"
    assert why in tried.report.notes
    # Behind blocks that gained, the model is not refitted from the cut once more.
    monkeypatch.setattr(trial, "compare", lambda *_: NEARER)
    joint = reap(model, joint_refit=3, tune=0)
    assert any(block.error_after < block.error_before for block in joint.report.blocks)
    assert bare(reap(model, joint_refit=3, tune=1).model) == bare(joint.model)


def test_where_zeros_are_not_tuned_all_samples_are_fitted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(repairs, "tune_network", lambda *_, **__: (None, []))
    model = residual_chain(2, 16)
    settings = {"target_macs": None, "pattern": "2:4"}
    alone, tried = (reap(model, tune=passes, **settings) for passes in (0, 20))
    assert bare(alone.model) == bare(tried.model)


def test_a_low_rank_model_is_tuned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "compare", lambda *_: NEARER)
    result = reap(residual_chain(2, 16), tune=30, low_rank="only")
    assert result.plan.factors
    fit = result.report.network
    assert fit.after.change_from(fit.before) < 0


# Where no gradient passes


def test_layers_in_front_of_what_lets_no_gradient_through_stay_and_are_named(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(trial, "compare", lambda *_: NEARER)
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 12), 12, 12)
    h = n.node("Sinh", n.conv(h, 12, 12))  # No gradient is known
    h = n.block(h, 12, 12)
    model = n.model(n.head(h, 12, 5))
    result = reap(model, tune=10)
    fit = result.report.network
    assert fit is not None
    assert fit.left
    layers = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    moved = layers & {*fit.nodes}
    assert moved
    assert moved | {*fit.left} == layers
    less = reap(model, tune=1).model
    found = [{t.name: t for t in each.graph.initializer} for each in (less, result.model)]
    for node in less.graph.node:
        if node.name in fit.left:
            assert found[0][node.input[1]] == found[1][node.input[1]]


def test_where_nothing_can_move_a_wish_is_answered():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Sinh", n.conv(n.block("x", 3, 12), 12, 12))
    model = n.model(n.node("Sinh", n.conv(h, 12, 5)))
    for tune, notes in ((3, 1), (None, 0)):
        found = [n for n in reap(model, tune=tune).report.notes if n.startswith("--tune changed")]
        assert len(found) == notes


def test_too_few_samples():
    result = reap(chain(12), images(4), tune=3)
    assert result.report.network is None
    assert any("--tune changed nothing: too few samples (4)" in n for n in result.report.notes)


# Odd models and data


def heads(*outputs: Callable[[Net, str], str]) -> onnx.ModelProto:
    """A network with further outputs."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    return n.model(n.head(h, 16, 5), *(make(n, h) for make in outputs))


def silent(n: Net, h: str) -> str:
    """A head that never fires, with a layer of its own."""
    return n.node("Relu", n.node("Add", n.conv(h, 16, 4), np.full((4, 1, 1), -1e4)))


def double(n: Net, h: str) -> str:
    return n.node("Cast", "x", to=onnx.TensorProto.DOUBLE)


def masked(n: Net, h: str) -> str:
    hidden = n.node("Greater", "x", np.array(1.5, np.float32))
    return n.node("Where", hidden, np.array(-np.inf, np.float32), "x")


@pytest.mark.parametrize("output", [silent, double, masked])
def test_outputs_that_cannot_be_compared_are_left_out(output):
    result = reap(heads(output), tune=20)
    fit = result.report.network
    assert fit is not None
    assert all(math.isfinite(x) for x in (fit.before.blocks, fit.after.blocks))
    assert fit.after.blocks < fit.before.blocks


def test_first_samples_that_are_nearly_alike_do_not_tell_what_varies():
    """What varies is seen on samples from anywhere."""
    data = np.concatenate([1e-3 * DATA[:60], DATA])
    fit = reap(residual_chain(2, 12), data, tune=10).report.network
    assert fit is not None
    assert 0 < fit.before.blocks < 1


def test_normalisations_that_share_vectors_stay_within_a_budget_of_parameters():
    n = Net({"x": ("N", 6, 24)})
    scale, shift = n.constant(np.ones(24, np.float32)), n.constant(np.zeros(24, np.float32))
    h = "x"
    for _ in range(4):
        inside = n.node("LayerNormalization", h, scale, shift)
        inside = n.node("Relu", n.node("MatMul", inside, n.random(24, 32)))
        h = n.node("Add", h, n.node("MatMul", inside, n.random(32, 24)))
    model = n.model(h)
    data = np.random.default_rng(0).standard_normal((100, 6, 24)).astype(np.float32)
    result = reap(model, data, target_macs=None, target_params=0.7, tune=5)
    assert result.report.network is not None
    assert result.report.after.params <= 0.7 * result.report.before.params


def test_a_normalisation_by_statistics_of_the_batch_is_no_constant_map():
    n = Net({"x": ("N", 3, 8, 8)})
    y = n.conv("x", 3, 4)
    h = n.node("BatchNormalization", y, *[np.ones(4, np.float32)] * 4, training_mode=1)
    model = Model(n.model(h, check=False))
    (norm,) = (node for node in model.nodes if node.op == "BatchNormalization")
    assert affine_map(norm, norm.inputs[0], 1, 4, 4) is None
    norm.attrs["training_mode"] = 0
    assert affine_map(norm, norm.inputs[0], 1, 4, 4) is not None


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (Pair(0.5, 0.6, 0.01, 0.4), "the outputs' error went from 0.5 to 0.6"),
        (Pair(0.5, 0.5001, 0.01, 0.4), "the outputs' error stayed at 0.5"),
        (Pair(0.5, 0.4, 0.2, 0.4), "which may be noise"),
        (Pair(0.5, 0.4, math.inf, 0.0), "there are too few samples to tell"),
        (None, "the outputs were not finite"),
    ],
)
def test_what_brings_the_outputs_no_nearer_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, pair: Pair | None, why: str
):
    """With rounding to integers, too, which may undo what was gained."""
    model = quantised(residual())
    monkeypatch.setattr(trial, "_compared", lambda *_: pair)
    alone, tuned = (reap(model, tune=passes) for passes in (0, 20))
    assert tuned.report.network is None
    assert any(n.startswith("the network was not tuned") and why in n for n in tuned.report.notes)
    assert bare(alone.model) == bare(tuned.model)


# When it ends


@pytest.mark.parametrize("worse", [tuning.WORSE_IN_SHORT, math.inf])
def test_what_brings_nothing_is_taken_back(monkeypatch: pytest.MonkeyPatch, worse: float):
    monkeypatch.setattr(tuning, "STEP_SIZES", (30.0, 20.0, 10.0))
    monkeypatch.setattr(tuning, "WORSE_IN_SHORT", worse)
    model = residual_chain(2, 12)
    alone, tuned = (reap(model, tune=passes) for passes in (0, 3))
    assert bare(tuned.model) == bare(alone.model)
    assert tuned.report.network is None
    assert "the network was not tuned: on the validation split nothing came nearer" in (
        tuned.report.notes
    )


def test_no_time_left():
    result = reap(chain(12), tune=None, time_limit=0.01)
    assert result.report.network is None
    (note,) = (n for n in result.report.notes if n.startswith("no time was left to refit"))
    assert "a longer --time-limit" in note


def test_without_time_layers_are_refitted_once(monkeypatch: pytest.MonkeyPatch):
    fitted = []
    whole = repairs.repair
    monkeypatch.setattr(repairs, "repair", lambda *a, **k: fitted.append(k) or whole(*a, **k))
    late = reap(chain(12), tune=None, joint_refit=None, time_limit=0.01)
    assert len(fitted) == 1
    assert bare(late.model) == bare(reap(chain(12), tune=0).model)


def test_past_the_limit_layers_are_not_refitted_once_more(monkeypatch: pytest.MonkeyPatch):
    """Unless numbers of passes are asked for, which make the same file however long it takes."""
    fitted = []
    whole = repairs.repair

    def fails(run, *_, **__):
        object.__setattr__(run.clock, "deadline", 0.0)
        raise ReapError("onnxruntime can't run the model")

    monkeypatch.setattr(repairs, "repair", lambda *a, **k: fitted.append(k) or whole(*a, **k))
    monkeypatch.setattr(repairs, "refit_jointly", fails)
    monkeypatch.setattr(repairs, "tune_network", fails)
    for passes, times in ((None, 1), (1, 2)):
        fitted.clear()
        reap(residual_chain(2, 12), joint_refit=passes, tune=passes, augment="none")
        assert len(fitted) == times, passes


def test_with_zeros_a_number_of_passes_makes_the_same_file_whatever_the_time(
    monkeypatch: pytest.MonkeyPatch,
):
    """Also where tuning is taken back; blocks are not refitted behind zeros."""

    def fails(*_, **__):
        raise ReapError("onnxruntime can't run the model")

    monkeypatch.setattr(repairs, "tune_network", fails)
    settings = {"target_macs": None, "pattern": "2:4", "joint_refit": None, "tune": 1}
    late, early = (reap(residual_chain(2, 16), time_limit=t, **settings) for t in (0.01, 300))
    assert bare(late.model) == bare(early.model)


def test_time_for_tuning_alone():
    result = reap(chain(12), tune=None, tune_time="0.01s")
    assert result.report.network is None
    (note,) = (n for n in result.report.notes if n.startswith("tuning the whole network takes"))
    assert "it was left out: a longer --tune-time" in note


def test_a_run_may_leave_it_out():
    result = reap(chain(12), tune=0)
    assert result.report.network is None
    assert "tuning" not in " ".join(result.report.notes)


def test_tuning_without_a_refit_is_refused():
    with pytest.raises(UsageError, match="--tune: contradicts --no-refit"):
        reap(chain(12), tune=2, refit=False)


def test_passes_and_a_time_to_tune_are_refused():
    with pytest.raises(UsageError, match="--tune and --tune-time"):
        reap(chain(12), tune=2, tune_time="3s")


@pytest.mark.parametrize("limit", ["5", "0s", "-1m", "later", 0])
def test_times_have_units(limit):
    with pytest.raises(UsageError, match="--time-limit"):
        reap(chain(12), time_limit=limit)


# How it is judged


def test_distances_compare_by_ratios():
    start = Distance(0.2, None, 0.4)
    assert Distance(0.1, None, 0.4).change_from(start) == pytest.approx(math.log(0.5) / 2)
    assert Distance(0.1, None, 0.8).change_from(start) == pytest.approx(0)
    assert Distance(math.nan, None, 0.1).change_from(start) == math.inf
    assert Distance(0.1, 0.3, None).change_from(Distance(0.1, 0.6, None)) < 0
    assert Distance(0.0, None, 0.0).change_from(Distance(0.0, None, 0.0)) == 0


# Copies of the samples


def smooth(count: int, seed: int = 1) -> np.ndarray:
    """Images of 12 x 12 whose neighbours are alike, so that they are taken for images."""
    x = np.random.default_rng(seed).standard_normal((count, 3, 12, 12))
    for axis in (2, 3):
        x = sum(np.roll(x, step, axis) for step in range(5))
    return x.astype(np.float32)


def copied_as(monkeypatch: pytest.MonkeyPatch, make: Callable) -> None:
    monkeypatch.setattr(Augment, "augmented", lambda self, feed, rng: {"x": make(rng)})


def test_where_samples_are_few_copies_are_fitted_as_well(monkeypatch: pytest.MonkeyPatch):
    copied_as(monkeypatch, lambda rng: smooth(1, seed=int(rng.integers(10**6))))
    model = residual_chain(3, 16, size=12)
    one = {"tune": 0, "joint_refit": 1}
    errors = [
        error(model, reap(model, smooth(80), **one, augment=kind).model, {"x": smooth(400, 9)})
        for kind in ("none", "image")
    ]
    assert errors[1] < 0.9 * errors[0]


def test_copies_that_do_harm_are_not_taken(monkeypatch: pytest.MonkeyPatch):
    copied_as(monkeypatch, lambda rng: 9 * rng.standard_normal((1, 3, 12, 12)).astype(np.float32))
    model = residual_chain(2, 12, size=12)
    one = {"tune": 0, "joint_refit": 1}
    plain, tried = (reap(model, smooth(80), **one, augment=kind) for kind in ("none", "image"))
    assert bare(plain.model) == bare(tried.model)
    assert plain.report.refits == tried.report.refits


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_a_model_that_ignores_its_input(last: float):
    """Without biases all activations are zero."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Mul", "x", np.zeros((1, 3, 1, 1)))
    for cin in (3, 12):
        h = n.node("Relu", n.conv(h, cin, 12, bias=False))
    h = n.node("Flatten", n.node("GlobalAveragePool", h))
    model = n.model(n.node("Gemm", h, n.random(12, 5), n.constant(np.full(5, last, np.float32))))
    result = reap(model, tune=2)
    np.testing.assert_allclose(run(result.model, {"x": DATA[:4]})[0], last, atol=1e-5)
