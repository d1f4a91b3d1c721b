"""The whole line: load, channels, moments, paths, plan, cut, refit, verify, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_reap.analysis import (
    Analysis,
    analyse,
    count_parameters,
    macs_left,
    model_inputs,
    normalises_itself,
    with_sizes,
)
from onnx_reap.budget import check_met, read_goal
from onnx_reap.capture.moments import batch_size
from onnx_reap.choice import Choice, choose
from onnx_reap.data import RAW_PIXELS, Calibration
from onnx_reap.equivalence import check_cut
from onnx_reap.graph.cut import cut_graph, kept_positions
from onnx_reap.graph.mask import mask_graph
from onnx_reap.graph.model import Model
from onnx_reap.loading import load
from onnx_reap.masking import with_weights
from onnx_reap.plan.plan import Plan
from onnx_reap.planning import make_plan, removed_by, widths_left
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.refit.layer import Fitted
from onnx_reap.repair import repair
from onnx_reap.report.records import Quality, Report
from onnx_reap.reporting import Clock, make_report
from onnx_reap.samples import open_samples
from onnx_reap.settings import Settings
from onnx_reap.solve.backend import Backend, namespace
from onnx_reap.validation import make_settings
from onnx_reap.verify import check_file, measure_quality
from onnx_reap.version import __version__

Source = str | Path | onnx.ModelProto
Shapes = Mapping[str, Sequence[int]]

JUDGES = 64  # of the fitted samples, whose outputs are compared too


@dataclass(frozen=True)
class Result:
    """A pruned model, what happened, and how to do it again.

    Attributes
    ----------
    model : onnx.ModelProto
    report : Report
    plan : Plan
    """

    model: onnx.ModelProto
    report: Report
    plan: Plan


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
        Fields of `Settings`; the command's flags with underscores.

    Returns
    -------
    Result

    Raises
    ------
    ReapError
        If the request can't be honoured; the message says why and what to try.
    """
    progress, chosen, clock = progress or NoProgress(), make_settings(settings), Clock()
    with clock("load"):
        proto = load(model)
        inputs = model_inputs(proto, chosen.input_shapes)
        samples = open_samples(inputs, data, chosen)
    with clock("analyse"):
        analysis = analyse(proto, inputs, samples.every, chosen)
        goal = read_goal(analysis, chosen)
    only_cpu = chosen.provider is not None and analysis.providers == ["CPUExecutionProvider"]
    backend = Backend(*namespace("cpu" if only_cpu else "auto"))
    with clock("choose"):
        choice = choose(analysis, goal, chosen, samples.fit, backend, progress)
    notes = [*samples.notes, *choice.notes]
    if normalises_itself(analysis.model):
        notes = [note for note in notes if note != RAW_PIXELS]
    with clock("cut"):
        pruned, doubts = _cut(analysis, choice.removed, samples.every)
        notes += doubts
    refits: dict[str, Fitted] = {}
    if chosen.refit and samples.fit is not None and choice.removed:
        with clock("refit"):
            refits, unfitted = repair(
                analysis, pruned, choice.removed, chosen, samples.fit, backend, progress
            )
            notes += unfitted
    out = _finish(pruned, chosen)
    macs, params = macs_left(analysis, pruned, choice.widths), count_parameters(out)
    check_met(goal.budgets, macs=macs, params=params, widths=choice.widths)
    with clock("verify"), progress.stage("Verifying") as step:
        notes += check_file(proto, out)
        seen = samples.fit and samples.fit.take(JUDGES, chosen.seed)
        fitted, held_out = (_quality(analysis, out, s) for s in (seen, samples.held_out))
        step()
    report = make_report(
        analysis,
        choice,
        out,
        samples.every,
        chosen,
        clock,
        macs=macs,
        params=params,
        fitted=fitted,
        held_out=held_out,
        refits=refits,
        notes=notes,
    )
    return Result(out, report, make_plan(analysis, choice.removed, chosen))


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
        Fields of `Settings`, of which `input_shapes` and `provider` mean something here; sizes that
        neither the model nor `input_shapes` tells are those that the plan was made at.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    progress, clock = progress or NoProgress(), Clock()
    with progress.stage("Cutting") as step:
        with clock("analyse"):
            chosen, analysis, samples, removed = _planned(model, plan, settings)
        with clock("cut"):
            pruned, notes = _cut(analysis, removed, samples)
            out = _finish(pruned, chosen)
        with clock("verify"):
            notes += check_file(analysis.proto, out)
        step()
    widths = widths_left(analysis, removed)
    choice = Choice(widths, removed, (None,) * len(widths))
    macs, params = macs_left(analysis, pruned, widths), count_parameters(out)
    report = make_report(
        analysis, choice, out, samples, chosen, clock, macs=macs, params=params, notes=notes
    )
    return Result(out, report, make_plan(analysis, removed, chosen))


def cut(
    model: Source, plan: Plan | str | Path, *, input_shapes: Shapes | None = None
) -> onnx.ModelProto:
    """Return the model without the channels that a plan removes; weights are sliced, not refitted.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    plan : Plan or path
    input_shapes : mapping of str to sequence of int, optional
        Shapes for inputs with dynamic dimensions, batch included; those of the plan by default.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    chosen, analysis, samples, removed = _planned(model, plan, {"input_shapes": input_shapes})
    pruned, _ = _cut(analysis, removed, samples)
    out = _finish(pruned, chosen)
    check_file(analysis.proto, out)
    return out


def mask(
    model: Source, plan: Plan | str | Path, *, input_shapes: Shapes | None = None
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

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    _, analysis, _, removed = _planned(model, plan, {"input_shapes": input_shapes})
    masked = analysis.copy()
    before = {name: constant.values for name, constant in masked.constants().items()}
    mask_graph(masked, analysis.flow, removed)
    after = {name: constant.values for name, constant in masked.constants().items()}
    changed = {name: values for name, values in after.items() if values is not before[name]}
    return with_weights(analysis.proto, changed)


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
    analysis = analyse(proto, inputs, samples, settings)
    return settings, analysis, samples, removed_by(plan, analysis)


def _cut(
    analysis: Analysis, removed: tuple[int, ...], samples: Calibration
) -> tuple[Model, list[str]]:
    """Cut, and compare with the masked original, which must be the same function."""
    pruned, masked = analysis.copy(), analysis.copy()
    cut_graph(pruned, analysis.probe, analysis.flow, removed)
    mask_graph(masked, analysis.flow, removed)
    sizes = [analysis.fixed_batch] if analysis.fixed_batch else [1, 3]
    feeds = [next(iter(samples.batches(size, pad=True))) for size in sizes]
    kept = kept_positions(analysis.flow, removed)
    notes = check_cut(masked.to_proto(), pruned.to_proto(), feeds, kept, analysis.providers)
    return pruned, notes


def _finish(pruned: Model, settings: Settings) -> onnx.ModelProto:
    """Write the model, with the tool's version and settings in its metadata."""
    out = pruned.to_proto()
    own = {
        "onnx_reap.version": __version__,
        "onnx_reap.settings": json.dumps(settings.chosen(), default=str, sort_keys=True),
    }
    others = [entry for entry in out.metadata_props if entry.key not in own]
    del out.metadata_props[:]
    out.metadata_props.extend(others)
    out.metadata_props.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in own.items())
    return out


def _quality(
    analysis: Analysis, out: onnx.ModelProto, samples: Calibration | None
) -> Quality | None:
    if samples is None:
        return None
    names = [tensor.name for tensor in analysis.model.graph.outputs]
    return measure_quality(
        analysis.proto,
        out,
        samples,
        batch_size(analysis.probe, names, analysis.fixed_batch),
        pad=analysis.fixed_batch is not None,
        providers=analysis.providers,
    )
