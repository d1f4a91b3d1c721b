"""What a caller can do with a model; each function reads as its own recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnx_reap import options
from onnx_reap.measure.latency.profile import measured_table
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.onnxio.load import Source
from onnx_reap.onnxio.threads import on_given_threads
from onnx_reap.options import DEFAULT_TARGETS, Paths, Settings
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.prune.accuracy_search import with_provable_budget
from onnx_reap.prune.apply import Pruned, apply_choice, masked_model, sliced_model
from onnx_reap.prune.conclude import conclude
from onnx_reap.prune.context import Run, open_run
from onnx_reap.prune.contradictions import check_contradictions, check_labels, run_settings
from onnx_reap.prune.decide import decide, estimate, narrowed
from onnx_reap.prune.form import choice_of
from onnx_reap.prune.goal import allowed, check_globs, read_goal
from onnx_reap.prune.lossless.trim import without_redundant
from onnx_reap.prune.low_rank.compare_forms import best_form
from onnx_reap.prune.low_rank.form import in_low_rank
from onnx_reap.prune.plan import Plan
from onnx_reap.prune.replay import open_planned
from onnx_reap.prune.search import curves_for, loss_estimator_for, reach
from onnx_reap.prune.sparsity.tiling import read_pattern, untouched, with_zeros
from onnx_reap.prune.sweep import accuracy_of, checked_targets, reachable_goals
from onnx_reap.report.build import make_result
from onnx_reap.report.inspect import make_inspection
from onnx_reap.report.inspection import Inspection
from onnx_reap.report.result import Point, Result
from onnx_reap.solve.allocation import Budget

if TYPE_CHECKING:
    from typing_extensions import Unpack

Shapes = Mapping[str, Sequence[int]]


@on_given_threads
def reap(
    model: Source,
    data: Any = None,
    *,
    progress: Progress | None = None,
    **settings: Unpack[options.RunKeywords],
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
        is needed, and none is run but to evaluate the result.

    Returns
    -------
    Result

    Raises
    ------
    ReapError
        If the request can't be honoured; the message says why and what to try.

    Examples
    --------
    >>> half = reap("models/fashion_resnet.onnx", target_macs=0.5, criterion="l1", refit=False)
    >>> half.report.after.macs / half.report.before.macs <= 0.5
    True
    """
    run = open_run(model, data, run_settings(settings, data), progress or NoProgress())
    if run.settings.max_drop is not None and settings.get("max_drop") is None:
        run = with_provable_budget(run)
    pattern = read_pattern(run.settings)
    lossless, tiling = None, None
    budgets: tuple[Budget, ...] = ()
    if run.settings.lossless:
        pruned, lossless = without_redundant(run)
    elif pattern is not None and not run.settings.names_budget:
        pruned = untouched(run)
    else:
        run, pruned, budgets = _pruned(run)
    if pattern is not None:
        pruned, tiling = with_zeros(run, pruned, pattern)
    outcome = conclude(run, pruned, budgets)
    return make_result(outcome, lossless=lossless, tiling=tiling)


def _pruned(run: Run) -> tuple[Run, Pruned, tuple[Budget, ...]]:
    """Remove channels, in the form that low rank makes of the model if that is asked for."""
    low_rank = run.settings.low_rank is not None
    if low_rank:
        run = in_low_rank(run)
    goal = read_goal(run)
    estimator = loss_estimator_for(run, goal)
    goal, curves, run = best_form(run, goal) if low_rank else (*curves_for(run, goal), run)
    pruned, goal = reach(run, goal, curves, estimator)
    return run, pruned, goal.budgets


def replay(
    model: Source,
    plan: Plan | str | Path,
    *,
    progress: Progress | None = None,
    **settings: Unpack[options.ReplayKeywords],
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
    progress = progress or NoProgress()
    with progress.stage("Cutting") as step:
        run, removed = open_planned(model, plan, settings, progress)
        pruned = apply_choice(run, choice_of(run.analysis, removed))
        step()
    return make_result(conclude(run, pruned, budgets=()))


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
    run, removed = open_planned(model, plan, given, NoProgress())
    return sliced_model(run, removed)


def mask(
    model: Source,
    plan: Plan | str | Path,
    *,
    input_shapes: Shapes | None = None,
    custom_op_library: Paths = (),
) -> onnx.ModelProto:
    """Return the original graph with removed channels' entries zeroed in their consumers' weights.

    All nodes and shapes stay; the function is that of `cut`, and so are the parameters.
    """
    given = {"input_shapes": input_shapes, "custom_op_library": custom_op_library}
    run, removed = open_planned(model, plan, given, NoProgress())
    return masked_model(run.analysis, removed)


@on_given_threads
def sweep(
    model: Source,
    data: Any = None,
    *,
    targets: Sequence[float] | None = None,
    labels: Any = None,
    progress: Progress | None = None,
    **settings: Unpack[options.SweepKeywords],
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
    ReapError
        If the request can't be honoured; a TargetError if a named target is out of reach, or all.
    """
    check_labels(labels, data)
    wanted = DEFAULT_TARGETS if targets is None else checked_targets(targets)
    chosen = Settings.make(settings, options.SweepKeywords)
    check_contradictions(chosen)
    run = open_run(model, data, chosen, progress or NoProgress())
    goals, notes = reachable_goals(run, wanted, named=targets is not None)
    accuracy = (lambda _: None) if labels is None else accuracy_of(run, labels)
    before = accuracy(run.analysis.light)
    with run.clock("choose"):
        curves = estimate(run, list(goals.values()))
    points = []
    with run.progress.stage("Making models", len(goals)) as step:
        for number, (target, goal) in enumerate(goals.items()):
            own = run.with_settings(target_macs=target).in_share(len(goals) - number)
            pruned = apply_choice(own, decide(own, goal, narrowed(curves, goal)))
            result = make_result(conclude(own, pruned, goal.budgets, notes=notes))
            after = accuracy(result.light)
            points.append(Point(result.light, result.report, result.plan, target, before, after))
            step()
    return points


def profile(
    model: Source, *, progress: Progress | None = None, **settings: Unpack[options.ProfileKeywords]
) -> LatencyTable:
    """Measure a model's linear layers at several widths, on this machine.

    Parameters are those of `reap`, settings those of `onnx_reap.options.ProfileKeywords`. A
    ReapError is raised if a setting doesn't apply here, or onnxruntime can't run the model.
    """
    chosen = Settings.make(settings, options.ProfileKeywords)
    chosen = replace(chosen, samples=4, criterion="l1", refit=False)  # only to run the model
    run = open_run(model, None, chosen, progress or NoProgress())
    check_globs(run.analysis, chosen)
    return measured_table(run.analysis, run.samples.every, chosen, run.progress)


def inspect(
    model: Source, data: Any = None, **settings: Unpack[options.InspectKeywords]
) -> Inspection:
    """Tell what could be pruned of a model, what could not, and why.

    A few samples of `data`, see `reap`, tell the sizes that the model leaves open.

    Raises
    ------
    ReapError
        If a setting doesn't apply here, or onnxruntime can't run the model.

    Examples
    --------
    >>> found = inspect("models/fashion_resnet.onnx")
    >>> found.least.macs < found.total.macs
    True
    """
    few = 4 if data is None else None  # only to run it
    chosen = replace(Settings.make(settings, options.InspectKeywords), samples=few)
    form = open_run(model, data, chosen, NoProgress()).form
    check_globs(form.analysis, chosen)
    widths = allowed(form, chosen, vanishing=True)
    named = {name: value for name, value in chosen.chosen().items() if name in settings}
    return make_inspection(form.analysis, widths, named)
