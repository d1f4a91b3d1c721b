"""The whole line: load, channels, moments, paths, plan, cut, refit, verify, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.split import HELD_OUT, Samples, divided, open_samples
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.graph.exclusion import exclusion
from onnx_reap.graph.inputs import model_inputs, with_sizes
from onnx_reap.measure.accuracy_loss import (
    EstimatedLoss,
    LossEstimator,
    least_provable_loss,
    loss_estimator,
)
from onnx_reap.measure.latency.profile import measured_table
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.measure.quality import check_file
from onnx_reap.onnxio import aside
from onnx_reap.onnxio.load import Source, load
from onnx_reap.onnxio.providers import execution_providers
from onnx_reap.onnxio.weights import with_weights
from onnx_reap.options import DEFAULT_TARGET_MACS, PROFILED, Settings
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.prune.accuracy_search import smallest_within_drop
from onnx_reap.prune.apply import Made, cut_and_compare, finish, make
from onnx_reap.prune.conclude import Result, conclude
from onnx_reap.prune.context import Clock, Work, open_work
from onnx_reap.prune.decide import Choice, decide
from onnx_reap.prune.goal import Goal
from onnx_reap.prune.latency_search import with_latency
from onnx_reap.prune.lossless.trim import without_redundant
from onnx_reap.prune.low_rank.factoring import factored
from onnx_reap.prune.low_rank.forming import goal_of, observed
from onnx_reap.prune.plan import Plan
from onnx_reap.prune.planning import removed_by, widths_left
from onnx_reap.prune.pruning_curves import Evidence
from onnx_reap.prune.sparsity.tiling import read_pattern, untouched, with_zeros
from onnx_reap.solve.backend import Backend
from onnx_reap.validation import (
    check_applicable,
    check_labelled,
    check_lossless,
    default_budget,
    make_settings,
)

Shapes = Mapping[str, Sequence[int]]
Paths = str | Path | Sequence[str | Path]


def reap(
    model: Source, data: Any = None, *, progress: Progress | None = None, **settings: Any
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
        Fields of `Settings`; the command's flags with underscores. Without a budget `max_drop` is
        0.01, or `target_macs` 0.6 where there is no data, or too little to show such a loss; where
        zeros are asked for, no channel goes. With `lossless` no data is needed, and none is run but
        to judge the result.

    Returns
    -------
    Result

    Raises
    ------
    ReapError
        If the request can't be honoured; the message says why and what to try.
    """
    check_lossless(settings)
    if settings.get("lossless"):
        work = open_work(model, data, make_settings(settings), progress or NoProgress())
        made, lossless = without_redundant(work)
        return conclude(work, made, lossless=lossless)
    check_labelled(settings.get("labels"), data)
    default = default_budget(settings, data)
    work = open_work(model, data, make_settings(settings | default), progress or NoProgress())
    if "max_drop" in default:
        work = _with_provable_budget(work)
    pattern = read_pattern(work.settings)
    if pattern is not None and not work.settings.names_budget:
        made, tiling = with_zeros(work, untouched(work), pattern)
        return conclude(work, made, tiling=tiling)
    work = factored(work)
    goal = goal_of(work)
    original = work.original.analysis
    estimate = (
        None if goal.max_drop is None else loss_estimator(original, work.samples, work.settings)
    )
    work, goal, evidence = observed(work, goal)
    made, drop, goal = _made(work, goal, evidence, estimate)
    if pattern is None:
        return conclude(work, made, budgets=goal.budgets, drop=drop)
    made, tiling = with_zeros(work, made, pattern)
    return conclude(work, made, budgets=goal.budgets, drop=drop, tiling=tiling)


def _with_provable_budget(work: Work) -> Work:
    """Bound the MACs instead of the loss where there are too few samples to show the default."""
    assert work.settings.max_drop is not None
    least = least_provable_loss(work.analysis, work.samples, work.settings)
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
    work: Work, goal: Goal, evidence: Evidence, estimate: LossEstimator | None
) -> tuple[Made, EstimatedLoss | None, Goal]:
    """Reach the goal; return the model, what it lost where that was bounded, and the budgets."""
    if goal.latency is not None:
        goal = with_latency(work, goal, evidence)
    if estimate is not None:
        return *smallest_within_drop(work, goal, evidence, estimate), goal
    return make(work, decide(work, goal, evidence)), None, goal


def replay(
    model: Source,
    plan: Plan | str | Path,
    *,
    progress: Progress | None = None,
    **settings: Any,
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
        Fields of `Settings`, of which `input_shapes`, `provider` and `custom_op_library` mean
        something here; sizes that neither the model nor `input_shapes` tells are those that the
        plan was made at.

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
    return conclude(work, made)


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


def profile(
    model: str | Path | onnx.ModelProto, *, progress: Progress | None = None, **settings: Any
) -> LatencyTable:
    """Measure a model's linear layers at several widths, on this machine.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    progress : Progress, optional
        Told how far the measurement is.
    **settings
        Fields of `Settings`, of which those in `PROFILED` mean something here.

    Returns
    -------
    LatencyTable

    Raises
    ------
    ReapError
        If a setting is of no use here, or onnxruntime can't run the model.
    """
    check_applicable(settings, PROFILED, "settings that a profile doesn't depend on")
    progress = progress or NoProgress()
    few = {"samples": 4, "criterion": "l1", "refit": False}  # they only serve to run the model
    chosen = make_settings({**settings, **few})
    proto = load(model)
    inputs = model_inputs(proto, chosen.input_shapes)
    samples = open_samples(inputs, None, chosen).every
    providers = execution_providers(chosen.provider, chosen.custom_op_library)
    why_not = exclusion(chosen.include, chosen.exclude)
    analysis = analyse(proto, inputs, samples, providers, why_not)
    return measured_table(analysis, samples, chosen, progress)


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
    frozen_by = {name: plan.settings.get(name, ()) for name in ("include", "exclude")}
    settings = make_settings({**given, **frozen_by, "refit": False})
    proto = load(model)
    inputs = with_sizes(model_inputs(proto, settings.input_shapes), plan.input_shapes)
    samples = open_samples(inputs, None, settings).every
    providers = execution_providers(settings.provider, settings.custom_op_library)
    why_not = exclusion(settings.include, settings.exclude)
    analysis = analyse(proto, inputs, samples, providers, why_not)
    return settings, analysis, samples, removed_by(plan, analysis)
