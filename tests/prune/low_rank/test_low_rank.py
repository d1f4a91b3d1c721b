"""Low rank: what the plan says is what the file holds, alone and along with thinner layers."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from net import Net
from small_models import images, run, weights_of

import onnx_reap
import onnx_reap.prune.low_rank.rewrite
import onnx_reap.prune.low_rank.streams
import onnx_reap.prune.low_rank.timing
from onnx_reap import ReapError
from onnx_reap.api import replay
from onnx_reap.cli.run import parse_run
from onnx_reap.data import synthetic_calibration
from onnx_reap.errors import CheckError, UsageError
from onnx_reap.graph.analysis import analyse, count_parameters
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.apply import apply_choice
from onnx_reap.prune.context import open_run
from onnx_reap.prune.form import Choice
from onnx_reap.prune.goal import allowed, read_goal
from onnx_reap.prune.low_rank.compare_forms import best_form
from onnx_reap.prune.low_rank.form import in_low_rank, without_idle
from onnx_reap.prune.low_rank.rewrite import check_same, rewritten
from onnx_reap.prune.plan import Plan
from onnx_reap.solve.allocation import Budget, Choices
from onnx_reap.solve.knapsack import knapsack

SHIPPED = Path(__file__).parent.parent.parents[1] / "models"
DATA = images(160)


def by_macs(points, providers, on_point):
    """Time layers by what they multiply."""
    return {p: 1e-3 * p.inputs * p.outputs * prod(p.layer.kernel) for p in points}


def net(seed: int = 0, dtype=np.float32, width: int = 16) -> onnx.ModelProto:
    """Convolutions of all kinds, a residual branch, and dense layers; some nodes have no name."""
    n = Net({"x": ("N", 3, 8, 8)}, seed, dtype)
    h = n.block("x", 3, width)
    inner = n.block(h, width, width)
    h = n.node("Relu", n.node("Add", n.norm(n.conv(inner, width, width, bias=False), width), h))
    h = n.block(h, width, 2 * width, 1)
    h = n.block(h, 2 * width, width, strides=[2, 2])
    flat = n.node("Flatten", n.node("GlobalAveragePool", h))
    model = n.model(n.gemm(n.node("Relu", n.gemm(flat, width, 32)), 32, 5))
    for node in model.graph.node[::3]:
        node.name = ""
    return model


def macs_of(model: onnx.ModelProto) -> int:
    inputs = model_inputs(model, None)
    analysis = analyse(model, inputs, synthetic_calibration(inputs, samples=4, seed=0))
    return analysis.macs.at(np.array([group.width for group in analysis.groups]))


def work_on(model: onnx.ModelProto, **settings):
    given = {"low_rank": "also", "refit": False, "round_to": 2, **settings}
    return in_low_rank(open_run(model, DATA, Settings.make(given), NoProgress()))


def choice_at(work, widths: dict[int, int]) -> Choice:
    groups = work.analysis.groups
    left = np.array([widths.get(i, group.width) for i, group in enumerate(groups)])
    gone = [u for g, w in zip(groups, left, strict=True) for u in g.units[w:]]
    return Choice(left, tuple(gone), (None,) * len(groups))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("state", ["whole", "thinner", "factorised", "both", "mixed"])
def test_the_cost_of_any_widths_is_that_of_the_file(seed: int, state: str):
    work = work_on(net(seed))
    analysis, rng = work.analysis, np.random.default_rng(seed)
    widths = {}
    for index, group in enumerate(analysis.groups):
        is_rank = index in work.form.widths
        wanted = {"thinner": not is_rank, "factorised": is_rank, "both": True}.get(state, False)
        if wanted or (state == "mixed" and rng.random() < 0.5):
            smaller = work.form.widths[index][:-1] if is_rank else np.arange(2, group.width, 2)
            widths[index] = int(rng.choice(smaller))
    choice = choice_at(work, widths)
    made = apply_choice(work, choice)
    assert analysis.macs.at(choice.widths) == made.macs == macs_of(made.model)
    assert analysis.params.at(choice.widths) == made.params == count_parameters(made.model)
    two = sum(index in work.form.widths for index in widths)
    assert len(made.model.graph.node) == len(net().graph.node) + two
    if state == "whole":
        assert weights_of(made.model.whole()).keys() >= weights_of(net(seed)).keys()
        for name, array in weights_of(net(seed)).items():
            np.testing.assert_array_equal(weights_of(made.model.whole())[name], array)


def test_what_one_group_alone_costs_is_the_cost_of_these_widths():
    analysis = work_on(net()).analysis
    rng = np.random.default_rng(0)
    full = np.array([group.width for group in analysis.groups])
    for _ in range(20):
        widths, options = rng.integers(1, full + 1), rng.integers(1, full + 1, (3, len(full))).T
        options[:, 0], widths[::3] = full, full[::3]
        for cost in (analysis.macs, analysis.params):
            found = cost.alone(widths, options)
            for g, i in np.ndindex(*options.shape):
                changed = widths.copy()
                changed[g] = options[g, i]
                assert found[g, i] == pytest.approx(cost.at(changed), abs=0.5)


def test_ranks_and_widths_together_lose_no_more_than_either_alone():
    analysis = (work := work_on(net(), round_to=4)).analysis
    full = np.array([group.width for group in analysis.groups])
    ranks = work.form.widths.keys()
    budget = [Budget("--target-macs", analysis.macs, int(0.6 * analysis.macs.at(full)))]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        both = [
            Choices(w, rng.choice([0.05, 0.2]) ** (g in ranks) * (1 - w / w[-1]) ** 2)
            for g, w in enumerate(allowed(work.form, work.settings, vanishing=False))
        ]
        channels, coordinates = (
            [Choices(c.widths[-1:], c.errors[-1:]) if (g in ranks) is fixed else c
             for g, c in enumerate(both)]
            for fixed in (True, False)
        )  # fmt: skip
        lost = []
        for choices in (both, channels, coordinates):
            widths = knapsack(choices, budget).tolist()
            lost.append(
                sum(float(c.errors[c.widths == w][0]) for c, w in zip(choices, widths, strict=True))
            )
        assert lost[0] <= min(lost[1:]) + 1e-12


def test_a_branch_vanishes_with_the_group_that_it_would_vanish_with_otherwise():
    work = work_on(net())
    names = [group.name for group in work.analysis.groups]
    before = work.original.analysis
    plain = {before.groups[g].name for g in before.branches.vanishing}
    assert plain
    assert {names[g] for g in work.analysis.branches.vanishing} == plain
    gone = work.analysis.branches.vanishing_with(work.analysis.branches.vanishing)
    assert gone & work.form.widths.keys()  # the basis inside goes along
    choice = choice_at(work, dict.fromkeys(gone, 0))
    made = apply_choice(work, choice)
    assert made.macs == work.analysis.macs.at(choice.widths) == macs_of(made.model)
    assert len(made.model.graph.node) < len(net().graph.node)


@pytest.mark.parametrize("mode", ["also", "only"])
@pytest.mark.parametrize("target", ["target_macs", "target_params", "target_size"])
def test_budgets_are_met_by_ranks(mode: str, target: str):
    model = net(width=32)
    result = onnx_reap.reap(model, DATA, low_rank=mode, joint_refit=0, tune=0, **{target: 0.7})
    before, after = result.report.before, result.report.after
    field = {"target_macs": "macs", "target_params": "params", "target_size": "bytes"}[target]
    assert getattr(after, field) <= 0.7 * getattr(before, field)
    assert before.macs == macs_of(model)
    assert before.params == count_parameters(model)
    assert before.bytes == model.ByteSize()
    assert after.macs == macs_of(result.model)
    assert after.params == count_parameters(result.model)
    assert result.report.factors or mode == "also"  # random weights are of full rank
    nodes = {node.name: node for node in result.model.graph.node}
    for factor in result.report.factors:
        assert factor.rank < factor.full
        weight = weights_of(result.model)[nodes[factor.node].input[1]]
        assert factor.rank in weight.shape
    if mode == "only":
        assert all(group.before == group.after for group in result.report.groups)
    names = {group.name for group in result.report.groups}
    assert names == {group.name for group in result.plan.groups}
    assert not any("basis" in name for name in names)


def test_the_refit_makes_up_for_coordinates_that_went():
    settings = {"low_rank": "only", "target_macs": 0.6, "joint_refit": 0, "tune": 0}
    errors = [
        onnx_reap.reap(net(width=32), DATA, refit=refit, **settings).report.held_out.output_error
        for refit in (True, False)
    ]
    (with_refit,), (without,) = (error.values() for error in errors)
    assert with_refit < without


def test_the_shipped_model():
    data = np.load(SHIPPED / "fashion_calib.npz")["input"][:48]
    model = SHIPPED / "fashion_resnet.onnx"
    result = onnx_reap.reap(model, data, low_rank=True, target_macs=0.6, joint_refit=0, tune=0)
    assert result.report.factors
    assert any(factor.scheme == "spatial" for factor in result.report.factors)
    assert result.report.held_out.top1_agreement > 0.8


def test_the_same_times_give_the_same_bytes():
    settings = {"low_rank": "only", "target_macs": 0.7, "joint_refit": 0, "tune": 0}
    first, second = (onnx_reap.reap(net(), DATA, **settings).model for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_a_loss_can_be_bounded():
    result = onnx_reap.reap(net(), images(160), low_rank=True, max_drop=0.9, joint_refit=2)
    assert result.report.loss.value <= 0.9
    assert result.report.after.macs < result.report.before.macs


def test_excluded_layers_stay_one():
    model = net()
    free = onnx_reap.reap(model, DATA, low_rank="only", target_macs=0.7, joint_refit=0, tune=0)
    name = free.report.factors[0].node
    held = onnx_reap.reap(
        model, DATA, low_rank="only", target_macs=0.8, joint_refit=0, tune=0, exclude=[name]
    )
    assert held.report.factors
    assert name not in [factor.node for factor in held.report.factors]
    alone = onnx_reap.reap(
        model, DATA, low_rank="only", target_macs=0.95, joint_refit=0, tune=0, include=[name]
    )
    assert [factor.node for factor in alone.report.factors] == [name]


def slow_pairs(points, providers, on_point):
    return dict.fromkeys(points, 1.0)


def test_layers_that_would_be_no_faster_stay_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_reap.prune.low_rank.timing, "measure_layers", slow_pairs)
    result = onnx_reap.reap(net(), DATA, low_rank=True, target_macs=0.7, joint_refit=0, tune=0)
    assert not result.report.factors
    assert "not be clearly faster" in result.report.notes[0]
    plain = onnx_reap.reap(net(), DATA, target_macs=0.7, joint_refit=0, tune=0)
    x = {"x": DATA}
    np.testing.assert_array_equal(run(result.model, x)[0], run(plain.model, x)[0])
    with pytest.raises(ReapError, match="no layer gains"):
        onnx_reap.reap(net(), DATA, low_rank="only", target_macs=0.7)


def test_only_the_ranks_that_are_faster_are_taken(monkeypatch: pytest.MonkeyPatch):
    whole = work_on(net(width=32)).form.widths

    def slower(points, providers, on_point):  # a call costs something
        return {p: t + 2 for p, t in by_macs(points, providers, on_point).items()}

    monkeypatch.setattr(onnx_reap.prune.low_rank.timing, "measure_layers", slower)
    fewer = work_on(net(width=32)).form.widths
    assert sum(map(len, fewer.values())) < sum(map(len, whole.values()))
    assert all(len(ranks) > 1 for ranks in fewer.values())


def test_a_basis_takes_more_samples_than_coordinates():
    names = [f.node for f in work_on(net()).form.bases.values()]
    few = open_run(net(), images(20), Settings.make({"low_rank": "also"}), NoProgress())
    fewer = [f.node for f in in_low_rank(few).form.bases.values()]
    assert fewer and set(fewer) < set(names)
    assert [n for n in names if "gemm" in n.lower()]
    assert not [n for n in fewer if "gemm" in n.lower()]  # one row a sample


def test_layers_of_other_types_stay_one():
    result = onnx_reap.reap(
        net(dtype=np.float16), DATA.astype(np.float16), low_rank=True, target_macs=0.7,
        joint_refit=0, tune=0,
    )  # fmt: skip
    assert not result.report.factors
    assert any("float32" in note for note in result.report.notes)


def test_a_plan_lists_ranks_and_is_not_replayed(tmp_path: Path):
    result = onnx_reap.reap(
        net(width=32), DATA, low_rank="only", target_macs=0.7, joint_refit=0, tune=0
    )
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json())
    plan = Plan.load(path)
    listed = [(f.node, f.scheme, f.rank) for f in plan.factors]
    assert listed == [(f.node, f.scheme, f.rank) for f in result.report.factors]
    for use in (replay, onnx_reap.cut, onnx_reap.mask):
        with pytest.raises(ReapError, match="another basis"):
            use(net(width=32), path)


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": 0.5},
        {"layer_ratios": {"*": 0.5}},
        {"target_latency": "0.7x"},
        {"target_macs": 0.5, "allocation": "uniform"},
        {"lossless": True},
        {"pattern": "2:4"},
        {"low_rank": "perhaps", "target_macs": 0.5},
    ],
)
def test_what_cannot_go_together_is_refused(settings: dict):
    with pytest.raises(UsageError):
        onnx_reap.reap(net(), DATA, **{"low_rank": "also", **settings})


def test_layers_are_thinned_then_made_two_then_zeroed():
    settings = {
        "low_rank": "also",
        "target_macs": 0.5,
        "pattern": "2:4",
        "joint_refit": 0,
        "tune": 0,
    }
    model = net(width=32)
    kernel = next(t for t in model.graph.initializer if list(t.dims) == [32, 64, 3, 3])
    left, right = np.random.default_rng(0).standard_normal((2, 8, 576)).astype(np.float32) / 24
    kernel.CopyFrom(
        onnx.numpy_helper.from_array((left[:, :32].T @ right).reshape(32, 64, 3, 3), kernel.name)
    )
    result = onnx_reap.reap(model, DATA, **settings)
    report = result.report
    assert report.after.macs <= 0.5 * report.before.macs
    assert report.factors and any(group.after < group.before for group in report.groups)
    zeroed = {layer.node for layer in report.tiling.layers}
    assert zeroed & {factor.node for factor in report.factors}
    for layer in report.tiling.layers:
        assert layer.zeros == pytest.approx(0.5, abs=0.01)
    (found,) = run(result.model, {"x": DATA})
    (expected,) = run(model, {"x": DATA})
    assert found.shape == expected.shape and np.isfinite(found).all()
    assert np.square(found - expected).mean() < expected.var()


def test_a_form_that_is_another_function_is_not_made(monkeypatch: pytest.MonkeyPatch):
    """The form that is written is compared with the given model, not with itself."""
    real, sound = (
        onnx_reap.prune.low_rank.rewrite.insert,
        onnx_reap.prune.low_rank.form.sound_ones,
    )

    def wrong(model, factor):
        return real(model, replace(factor, second=np.roll(factor.second, 1, 0)))

    def then_wrong(*arguments):
        found = sound(*arguments)
        monkeypatch.setattr("onnx_reap.prune.low_rank.rewrite.insert", wrong)
        return found

    monkeypatch.setattr("onnx_reap.prune.low_rank.form.sound_ones", then_wrong)
    with pytest.raises(CheckError, match="changed"):
        onnx_reap.reap(net(), DATA, target_macs=0.7, low_rank="only", joint_refit=0, tune=0)


def test_layers_that_give_something_else_as_two_stay_one(monkeypatch: pytest.MonkeyPatch):
    real, broken = onnx_reap.prune.low_rank.rewrite.insert, []

    def wrong(model, factor):
        broken[:] = broken or [factor.node]
        if factor.node in broken:
            factor = replace(factor, second=np.roll(factor.second, 1, 0))
        return real(model, factor)

    monkeypatch.setattr("onnx_reap.prune.low_rank.rewrite.insert", wrong)
    result = onnx_reap.reap(net(), DATA, target_macs=0.7, low_rank="only", joint_refit=0, tune=0)
    assert broken[0] not in {factor.node for factor in result.report.factors}
    assert any("rounding would change what they give" in note for note in result.report.notes)


def test_sweeps_and_replays_take_no_ranks():
    with pytest.raises(UsageError):
        onnx_reap.sweep(net(), DATA, low_rank="also")
    with pytest.raises(UsageError):
        parse_run(["a.onnx", "b.onnx", "--from-plan", "p.json", "--low-rank"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["--low-rank"], "also"), (["--low-rank", "only"], "only"), ([], None)],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_flag(given: list[str], expected: str | None, first: bool):
    files = ["a.onnx", "b.onnx"]
    arguments = parse_run([*given, *files] if first else [*files, *given])
    assert arguments.settings.get("low_rank") == expected
    assert (str(arguments.model), str(arguments.output)) == ("a.onnx", "b.onnx")
    assert Settings.make({"low_rank": True}).low_rank == "also"
    assert Settings.make({"low_rank": False}).low_rank is None


def streams(seed: int = 0, rank: int = 8) -> onnx.ModelProto:
    """Narrow streams between wide layers, as in inverted residuals, of which few axes are used."""
    n = Net({"x": ("N", 3, 8, 8)}, seed)
    flat = n.rng.standard_normal((rank, 8))

    def project(x: str, cin: int) -> str:
        y = n.conv(x, cin, 8, 1, bias=False)
        weight = n.weights[n.nodes[-1].input[1]]
        weight[...] = np.einsum("rc,rihw->cihw", flat, weight[:rank])
        return n.norm(y, 8) if rank == 8 else y

    h = project(n.block("x", 3, 24), 24)
    for _ in range(2):
        h = n.node("Add", h, project(n.block(h, 8, 32, 1), 32))
    return n.model(n.head(n.block(h, 8, 48, 1), 48, 5))


def stream_rows(result) -> list:
    return [f for f in result.report.factors if f.scheme == "stream"]


@pytest.mark.parametrize("low_rank", ["also", "only"])
def test_a_stream_of_few_axes_loses_channels_without_a_loss(low_rank: str):
    model = streams(rank=5)
    result = onnx_reap.reap(
        model, DATA, low_rank=low_rank, target_macs=0.8, joint_refit=0, tune=0, round_to=1
    )
    (row,) = stream_rows(result)
    assert row.rank == 5 and row.full == 8
    (expected,), (found,) = run(model, {"x": DATA}), run(result.model, {"x": DATA})
    assert np.square(found - expected).sum() / np.square(expected - expected.mean(0)).sum() < 1e-4
    plain = onnx_reap.reap(model, DATA, target_macs=0.8, joint_refit=0, tune=0, round_to=1)
    (thinner,) = run(plain.model, {"x": DATA})
    assert np.square(found - expected).sum() < 0.1 * np.square(thinner - expected).sum()


@pytest.mark.parametrize("widths", [{}, {"stream": 5}, {"stream": 3, "inner": 11}, {"inner": 9}])
def test_the_cost_with_streams_is_that_of_the_file(widths: dict[str, int]):
    work = work_on(streams(), round_to=1)
    groups = work.analysis.groups
    by_scheme = {basis.scheme: name for name, basis in work.form.bases.items()}
    inner = next(g.name for g in groups if g.name not in work.form.bases and g.width == 32)
    names = {"stream": by_scheme["stream"], "inner": inner}
    index = {g.name: i for i, g in enumerate(groups)}
    choice = choice_at(work, {index[names[key]]: width for key, width in widths.items()})
    made = apply_choice(work, choice)
    assert work.analysis.macs.at(choice.widths) == made.macs == macs_of(made.model)
    assert work.analysis.params.at(choice.widths) == made.params == count_parameters(made.model)
    if "stream" not in widths:  # then all weights but those that lose channels are as they were
        old, new = weights_of(streams()), weights_of(made.model.whole())
        same = [name for name in old if np.array_equal(old[name], new.get(name, 0))]
        assert len(same) >= len(old) - 8 * ("inner" in widths)


def test_a_plan_leaves_streams_whole_and_names_their_ranks():
    result = onnx_reap.reap(
        streams(rank=5), DATA, low_rank=True, target_macs=0.7, joint_refit=0, tune=0, round_to=1
    )
    (row,) = stream_rows(result)
    entry = next(group for group in result.plan.groups if group.name == row.node)
    assert entry.width == len(entry.kept) == 8
    assert (row.node, "stream", row.rank) in {
        (f.node, f.scheme, f.rank) for f in result.plan.factors
    }


def test_a_stream_that_gives_something_else_in_its_basis_stays(monkeypatch: pytest.MonkeyPatch):
    real = onnx_reap.prune.low_rank.streams.change_basis

    def wrong(model, ends, stream):
        real(model, ends, replace(stream, back=np.roll(stream.back, 1, 0)))

    monkeypatch.setattr("onnx_reap.prune.low_rank.streams.change_basis", wrong)
    result = onnx_reap.reap(streams(), DATA, target_macs=0.7, low_rank=True, joint_refit=0, tune=0)
    assert not stream_rows(result)
    assert any("rounding would change what they give" in note for note in result.report.notes)


def test_layers_that_stay_one_are_looked_at_as_one():
    """Coordinates in front of a layer distort what it is felt to lose."""
    work = work_on(net(width=32), refit=True)
    assert len(work.form.bases) > 1
    index = min(work.form.widths)
    name = work.analysis.groups[index].name
    choice = choice_at(work, {index: int(work.form.widths[index][0])})
    fewer = without_idle(work.form, choice)
    assert [basis.node for basis in fewer.form.bases.values()] == [work.form.bases[name].node]
    (ranks,) = fewer.form.widths.values()
    assert np.array_equal(ranks, work.form.widths[index])
    again = choice_at(fewer, {i: int(r[0]) for i, r in fewer.form.widths.items()})
    assert without_idle(fewer.form, again) is None


@pytest.mark.parametrize("share", [0.97, 0.9, 0.8])
def test_a_size_is_kept_with_streams(share: float):
    model = streams()
    result = onnx_reap.reap(model, DATA, low_rank=True, target_size=share, joint_refit=0, tune=0)
    assert result.model.ByteSize() <= share * model.ByteSize()


def test_a_budget_counts_streams_as_the_file_does():
    model = streams()
    work = work_on(model, refit=True)
    full = np.array([group.width for group in work.analysis.groups])
    assert work.analysis.params.at(full) == count_parameters(model)
    same = onnx_reap.reap(
        model, DATA, low_rank=True, target_params=count_parameters(model), joint_refit=0, tune=0
    )
    assert not same.report.factors and same.report.after.params == count_parameters(model)


@pytest.mark.parametrize("budget", ["target_macs", "target_params", "target_size"])
def test_a_budget_that_is_met_anyway_changes_nothing(budget: str):
    model = net(width=32)
    result = onnx_reap.reap(model, DATA, low_rank="only", joint_refit=0, tune=0, **{budget: 1.0})
    assert not result.report.factors
    assert result.report.after.macs == result.report.before.macs


def test_one_layer_alone_may_become_two():
    n = Net({"x": ("N", 64)})
    flat = n.rng.standard_normal((64, 8)) @ n.rng.standard_normal((8, 64))
    model = n.model(n.node("MatMul", "x", n.constant(flat)))
    data = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32)
    for low_rank in ("also", "only"):
        result = onnx_reap.reap(
            model, data, low_rank=low_rank, target_macs=0.5, joint_refit=0, tune=0
        )
        assert [factor.scheme for factor in result.report.factors] == ["channel"]


def test_a_search_keeps_all_layers_that_may_become_two():
    work = work_on(net(width=32), refit=True, max_drop=0.02, low_rank="only")
    goal, _, found = best_form(work, read_goal(work))
    assert goal.max_drop == 0.02 and found.form.bases.keys() == work.form.bases.keys()


def test_a_layer_in_front_of_a_stream_is_idle_though_the_stream_is_not():
    work = work_on(streams(), round_to=1)
    (name,) = [n for n, basis in work.form.bases.items() if basis.scheme == "stream"]
    index = [group.name for group in work.analysis.groups].index(name)
    fewer = without_idle(work.form, choice_at(work, {index: 5}))
    assert list(fewer.form.bases) == [name]


def test_globs_are_of_the_given_model():
    model = streams()
    norm = next(node.name for node in model.graph.node[6:] if node.op_type == "BatchNormalization")
    onnx_reap.reap(
        model, DATA, low_rank=True, target_macs=0.8, joint_refit=0, tune=0, exclude=[norm]
    )
    with pytest.raises(ReapError, match="matches no node"):
        onnx_reap.reap(model, DATA, low_rank=True, target_macs=0.8, exclude=["*_basis"])


def test_old_formats_whose_new_constants_are_nodes():
    model = net(width=32)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    result = onnx_reap.reap(model, DATA, low_rank="only", target_macs=0.7, joint_refit=0, tune=0)
    assert result.report.factors
    assert [i.name for i in result.model.graph.input] == [i.name for i in model.graph.input]


def test_where_ranks_bring_nothing_it_is_said():
    result = onnx_reap.reap(net(), DATA, low_rank=True, target_macs=0.99, joint_refit=0, tune=0)
    said = any("--low-rank changed nothing" in note for note in result.report.notes)
    assert said is not bool(result.report.factors)


def test_all_reasons_for_nothing_are_told(monkeypatch: pytest.MonkeyPatch):
    """Some layers are not faster as two, and the others are other functions."""
    real = onnx_reap.prune.low_rank.form.fast_ranks
    monkeypatch.setattr(
        "onnx_reap.prune.low_rank.form.sound_ones", lambda run, _: rewritten(run, [])
    )
    monkeypatch.setattr(
        "onnx_reap.prune.low_rank.form.fast_ranks",
        lambda work, factors: dict(list(real(work, factors).items())[:1]),
    )
    notes = onnx_reap.reap(
        net(), DATA, low_rank=True, target_macs=0.8, joint_refit=0, tune=0
    ).report.notes
    assert any("clearly faster; " in n and "rounding would change" in n for n in notes)


@pytest.mark.parametrize("better", ["two", "whole"])
def test_samples_judge_between_layers_as_two_and_whole(better: str, monkeypatch):
    def applied(trained, *_, **__):
        two = any(basis.scheme != "stream" for basis in trained.form.bases.values())
        return SimpleNamespace(model=(two, trained.samples.fit))

    def judged(_, pruned, judges):
        two, teachers = pruned
        assert len(teachers) > len(judges) > 0
        return SimpleNamespace(output_error={"y": 1.0 - (two is (better == "two"))})

    monkeypatch.setattr("onnx_reap.prune.low_rank.compare_forms.apply_choice", applied)
    monkeypatch.setattr("onnx_reap.prune.low_rank.compare_forms.quality", judged)
    model = net(width=32)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:  # of few axes: worth being two
            array = onnx.numpy_helper.to_array(tensor)
            u, size, v = np.linalg.svd(array.reshape(len(array), -1), full_matrices=False)
            array = ((u[:, :4] * size[:4]) @ v[:4]).reshape(array.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    work = work_on(model, refit=True, target_macs=0.6)
    *_, form = best_form(work, read_goal(work))
    assert bool(form.form.bases) is (better == "two")


def test_layers_that_read_a_stream_are_compared_one_by_one(monkeypatch: pytest.MonkeyPatch):
    real, compared = onnx_reap.prune.low_rank.rewrite.compare, []

    def listening(*models, also, **given):
        compared.append(set(also))
        return real(*models, also=also, **given)

    monkeypatch.setattr("onnx_reap.prune.low_rank.rewrite.compare", listening)
    work = work_on(streams(), round_to=1)
    readers = {
        linear.y
        for linear in work.original.analysis.flow.linears
        if any(
            linear.node in group.consumers
            for group in work.original.analysis.groups
            if group.name in work.form.bases
        )
    }
    assert len(readers) == 3 and all(readers <= also for also in compared)
    stream = [basis for basis in work.form.bases.values() if basis.scheme == "stream"]
    check_same(work.original, stream)  # no layer is two, which would be compared for itself
    assert compared[-1] == readers
