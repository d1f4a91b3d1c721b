"""The whole line: load, channels, moments, paths, plan, cut, refit, verify, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.labels import hits, read_labels
from onnx_reap.data.split import HELD_OUT, Samples, divided, open_samples
from onnx_reap.graph.analysis import Analysis, analyse, model_inputs, with_sizes
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.measure.accuracy_loss import Drop, Judge, drop_judge, held_out_for, least_shown
from onnx_reap.measure.quality import check_file
from onnx_reap.onnxio import aside
from onnx_reap.onnxio.load import Source, load
from onnx_reap.onnxio.weights import with_weights
from onnx_reap.options import (
    DEFAULT_TARGET_MACS,
    DEFAULT_TARGETS,
    InspectKeywords,
    Paths,
    ReplayKeywords,
    RunKeywords,
    Settings,
    SweepKeywords,
)
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.prune.accuracy_search import smallest_within_drop
from onnx_reap.prune.apply import Made, cut_and_compare, finish, make
from onnx_reap.prune.conclude import conclude
from onnx_reap.prune.context import Clock, Work, open_work
from onnx_reap.prune.contradictions import check_contradictions, check_labels, run_settings
from onnx_reap.prune.decide import Choice, decide, narrowed, observe
from onnx_reap.prune.globs import check_globs
from onnx_reap.prune.goal import Goal, allowed
from onnx_reap.prune.latency_search import with_latency
from onnx_reap.prune.lossless.trim import without_redundant
from onnx_reap.prune.low_rank.factoring import factored
from onnx_reap.prune.low_rank.forming import goal_of, observed
from onnx_reap.prune.plan import Plan
from onnx_reap.prune.planning import removed_by, widths_left
from onnx_reap.prune.pruning_curves import Evidence
from onnx_reap.prune.sparsity.tiling import read_pattern, untouched, with_zeros
from onnx_reap.prune.sweep import checked_targets, reachable_goals
from onnx_reap.report.build import make_result
from onnx_reap.report.inspect import make_inspection
from onnx_reap.report.inspection import Inspection
from onnx_reap.report.result import Point, Result
from onnx_reap.solve.backend import Backend

if TYPE_CHECKING:
    from typing_extensions import Unpack

FEW = 4  # samples, where they only serve to run a model

Accuracy = Callable[[onnx.ModelProto], float]
Shapes = Mapping[str, Sequence[int]]


def reap(
    model: Source,
    data: Any = None,
    *,
    progress: Progress | None = None,
    **settings: Unpack[RunKeywords],
) -> Result:
    """Prune a model and refit what stays.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    data : path, array, dict of arrays, iterable of feeds or CalibrationDataReader, optional
        Calibration samples, see `onnx_reap.data.open_calibration`. Without any, synthetic ones are
        drawn, unless nothing has to be estimated (`criterion="l1", refit=False`).
    progress : Progress, optional
        Told how far each stage is.
    **settings
        Those of `onnx_reap.options.RunKeywords`: the command's flags with underscores. Without a
        budget `max_drop` is 0.01, or `target_macs` 0.6 where there is no data, or too little to
        show such a loss; where zeros are asked for, no channel is removed. With `lossless` no data
        is needed, and none is run but to judge the result.

    Returns
    -------
    Result

    Raises
    ------
    ReapError
        If the request can't be honoured; the message says why and what to try.
    """
    chosen = run_settings(settings, data)
    work = open_work(model, data, chosen, progress or NoProgress())
    if chosen.lossless:
        made, lossless = without_redundant(work)
        return make_result(conclude(work, made), lossless=lossless)
    if chosen.max_drop is not None and settings.get("max_drop") is None:
        work = _with_provable_budget(work)
    pattern = read_pattern(work.settings)
    if pattern is not None and not work.settings.names_budget:
        made, tiling = with_zeros(work, untouched(work), pattern)
        return make_result(conclude(work, made), tiling=tiling)
    work = factored(work)
    goal = goal_of(work)
    judge = None if goal.max_drop is None else drop_judge(work.original)
    work, goal, evidence = observed(work, goal)
    made, drop, goal = _made(work, goal, evidence, judge)
    tiling = None
    if pattern is not None:
        made, tiling = with_zeros(work, made, pattern)
    outcome = conclude(work, made, budgets=goal.budgets, drop=drop)
    return make_result(outcome, tiling=tiling)


def _with_provable_budget(work: Work) -> Work:
    """Bound the MACs instead of the loss where there are too few samples to show the default."""
    assert work.settings.max_drop is not None
    least = least_shown(work)
    if least <= work.settings.max_drop:
        return work
    settings = replace(work.settings, max_drop=None, target_macs=DEFAULT_TARGET_MACS)
    note = (
        f"no budget was named, and there are too few samples to show a loss of at most "
        f"{work.settings.max_drop:.0%}: {DEFAULT_TARGET_MACS:.0%} of the MACs are left instead"
    )
    samples = divided(work.samples, HELD_OUT, settings.seed)
    samples = replace(samples, notes=(*samples.notes, note))
    return replace(work, settings=settings, samples=samples)


def _made(
    work: Work, goal: Goal, evidence: Evidence, judge: Judge | None
) -> tuple[Made, Drop | None, Goal]:
    """Reach the goal; return the model, what it lost where that was bounded, and the budgets."""
    if goal.latency is not None:
        goal = with_latency(work, goal, evidence)
    if judge is not None:
        return *smallest_within_drop(work, goal, evidence, judge), goal
    return make(work, decide(work, goal, evidence)), None, goal


def replay(
    model: Source,
    plan: Plan | str | Path,
    *,
    progress: Progress | None = None,
    **settings: Unpack[ReplayKeywords],
) -> Result:
    """Make the cut that a plan describes, without data and without a refit.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    plan : Plan or path
    progress : Progress, optional
        Told how far each stage is.
    **settings
        Those of `onnx_reap.options.ReplayKeywords`; sizes that neither the model nor `input_shapes`
        tells are those that the plan was made at.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    progress, clock = progress or NoProgress(), Clock()
    with progress.stage("Cutting") as step:
        with clock("analyse"):
            chosen, analysis, samples, removed = _planned(model, plan, settings)
        widths = widths_left(analysis, removed)
        work = Work(
            analysis,
            Samples(samples, None, None, ()),
            chosen,
            Backend.pick("cpu"),
            progress,
            clock,
        )
        made = make(work, Choice(widths, removed, (None,) * len(widths)))
        step()
    return make_result(conclude(work, made))


def cut(
    model: Source,
    plan: Plan | str | Path,
    *,
    input_shapes: Shapes | None = None,
    custom_op_library: Paths = (),
) -> onnx.ModelProto:
    """Return the model without the channels that a plan removes; weights are sliced, not refitted.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    plan : Plan or path
    input_shapes : mapping of str to sequence of int, optional
        Shapes for inputs with dynamic dimensions, batch included; those of the plan by default.
    custom_op_library : path or sequence of path, optional
        Libraries of operators that onnxruntime lacks.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    given = {"input_shapes": input_shapes, "custom_op_library": custom_op_library}
    chosen, analysis, samples, removed = _planned(model, plan, given)
    pruned, _ = cut_and_compare(analysis, removed, samples)
    out = finish(pruned, chosen)
    check_file(analysis.proto, out)
    return aside.whole(out)


def mask(
    model: Source,
    plan: Plan | str | Path,
    *,
    input_shapes: Shapes | None = None,
    custom_op_library: Paths = (),
) -> onnx.ModelProto:
    """Return the original graph with removed channels' entries zeroed in their consumers' weights.

    All nodes and shapes stay; the function is that of `cut`.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    plan : Plan or path
    input_shapes : mapping of str to sequence of int, optional
        Shapes for inputs with dynamic dimensions, batch included; those of the plan by default.
    custom_op_library : path or sequence of path, optional
        Libraries of operators that onnxruntime lacks.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    given = {"input_shapes": input_shapes, "custom_op_library": custom_op_library}
    _, analysis, _, removed = _planned(model, plan, given)
    masked = analysis.copy()
    before = {name: constant.values for name, constant in masked.constants().items()}
    mask_graph(masked, analysis.flow, removed)
    after = {name: constant.values for name, constant in masked.constants().items()}
    changed = {name: values for name, values in after.items() if values is not before[name]}
    return aside.whole(with_weights(analysis.proto, changed))


def _planned(
    model: Source, plan: Plan | str | Path, given: Mapping[str, Any]
) -> tuple[Settings, Analysis, Calibration, tuple[int, ...]]:
    """Analyse a model as it was when a plan was made, on samples that only serve to run it.

    Returns
    -------
    settings, analysis, samples
    removed : tuple of int
        Units that the plan removes.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    frozen = Settings.make({name: plan.settings.get(name, ()) for name in ("include", "exclude")})
    chosen = Settings.make(given, ReplayKeywords)
    settings = replace(chosen, include=frozen.include, exclude=frozen.exclude, refit=False)
    proto = load(model)
    inputs = with_sizes(model_inputs(proto, settings.input_shapes), plan.input_shapes)
    samples = open_samples(inputs, None, settings).every
    analysis = analyse(proto, inputs, samples, settings)
    return settings, analysis, samples, removed_by(plan, analysis)


def sweep(
    model: Source,
    data: Any = None,
    *,
    targets: Sequence[float] | None = None,
    labels: Any = None,
    progress: Progress | None = None,
    **settings: Unpack[SweepKeywords],
) -> list[Point]:
    """Prune a model to several sizes, calibrating once.

    Second moments, removal paths and sensitivities are gathered once, down to the narrowest widths
    that the smallest target asks for; every model is then cut from the original and refitted.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    data : path, array, dict of arrays, iterable of feeds or CalibrationDataReader, optional
        Calibration samples as for `reap`.
    targets : sequence of float, optional
        Fractions of the multiply-accumulates that models may have at most, between 0 and 1. By
        default 0.9 to 0.3 in steps of 0.1, of which those that can't be reached are left out; the
        reports' notes say so.
    labels : path or array_like of int, optional
        Class of every sample, in the order of the data: accuracies are measured with them, on the
        samples that are held out.
    progress : Progress, optional
        Told how far each stage is.
    **settings
        Those of `onnx_reap.options.SweepKeywords`.

    Returns
    -------
    list of Point
        Largest target first, each once.

    Raises
    ------
    UsageError
        If a setting or a target makes no sense.
    TargetError
        If a target that is named, or every default one, is out of reach.
    ReapError
        If the request can't be honoured for another reason.
    """
    check_labels(labels, data)
    wanted = DEFAULT_TARGETS if targets is None else checked_targets(targets)
    chosen = Settings.make(settings, SweepKeywords)
    check_contradictions(chosen)
    work = open_work(model, data, chosen, progress or NoProgress())
    with work.clock("analyse"):
        goals, notes = reachable_goals(work, wanted, named=targets is not None)
    accuracy = None if labels is None else _accuracy(work, labels)
    before = None if accuracy is None else accuracy(work.analysis.proto)
    with work.clock("choose"):
        evidence = observe(work, list(goals.values()))
    points = []
    with work.progress.stage("Making models", len(goals)) as step:
        for target, goal in goals.items():
            result = _made_for(work, target, goal, evidence, notes)
            after = None if accuracy is None else accuracy(result.light)
            own = {f.name: getattr(result, f.name) for f in fields(result)}
            points.append(Point(**own, target=target, accuracy_before=before, accuracy_after=after))
            step()
    return points


def _made_for(
    work: Work, target: float, goal: Goal, evidence: Evidence, notes: Sequence[str]
) -> Result:
    """Make one model; its settings are those that `reap` would want for it."""
    alone = work.branch(replace(work.settings, target_macs=target), NoProgress())
    made = make(alone, decide(alone, goal, narrowed(evidence, goal)))
    return make_result(conclude(alone, made, budgets=goal.budgets, notes=notes))


def _accuracy(work: Work, labels: Any) -> Accuracy:
    right = hits(work, held_out_for("--labels", work), read_labels(labels, work.samples.every))
    return lambda model: float(np.mean(right(model)))


def inspect(model: Source, **settings: Unpack[InspectKeywords]) -> Inspection:
    """Tell what could be pruned of a model, what could not, and why; without data.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    **settings
        Those of `onnx_reap.options.InspectKeywords`.

    Returns
    -------
    Inspection

    Raises
    ------
    ReapError
        If a setting doesn't apply here, or onnxruntime can't run the model. That nothing can be
        pruned is no error.
    """
    chosen = replace(Settings.make(settings, InspectKeywords), samples=FEW)
    analysis = open_work(model, None, chosen, NoProgress()).analysis
    check_globs(analysis, chosen)
    widths = allowed(analysis, chosen, vanishing=True)
    named = {name: value for name, value in chosen.chosen().items() if name in settings}
    return make_inspection(analysis, widths, named)
