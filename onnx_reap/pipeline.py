"""The whole line in reading order: load, channels, moments, paths, plan, cut, refit, verify, report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .analysis import Analysis, analyse, model_inputs
from .budget import read_goal
from .capture.moments import batch_size
from .choice import Choice, choose
from .data import Calibration, Preprocess, open_calibration, synthetic_calibration
from .errors import ReapError, UsageError
from .graph.cut import cut_graph, kept_positions
from .graph.mask import mask_graph
from .graph.model import Model, load
from .plan.plan import FrozenPlan, GroupPlan, Plan
from .progress import NoProgress, Progress
from .refit.layer import Fitted
from .repair import repair
from .report.latency import compare_latency
from .report.records import Figures, FrozenResult, GroupResult, LayerRefit, Quality, Report
from .settings import Settings
from .solve.backend import Backend, namespace
from .verify import check_cut, check_file, measure_quality
from .version import __version__

Source = str | Path | onnx.ModelProto

SYNTHETIC_SAMPLES = 256
HELD_OUT = 0.1  # fraction of the samples kept aside to judge the result
FEWEST_TO_SPLIT = 20
LATENCY_SECONDS = 1.5
JUDGES = 100  # samples among the fitted ones whose outputs are compared


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
    progress, chosen, clock = progress or NoProgress(), _settings(settings), _Clock()
    with clock("load"):
        proto = load(model)
        samples, notes = _samples(proto, data, chosen)
    with clock("analyse"):
        analysis = analyse(proto, model_inputs(proto, chosen.input_shapes), samples, chosen)
        goal = read_goal(analysis, chosen)
    estimates = chosen.criterion == "reap" or chosen.refit
    fitted_on, held_out = _split(samples, chosen) if estimates else (None, None)
    backend = Backend(*namespace("cpu" if chosen.provider == "cpu" else "auto"))
    with clock("choose"):
        choice = choose(analysis, goal, chosen, fitted_on, backend, progress)
    with clock("cut"):
        pruned = _cut(analysis, choice.removed, samples)
    fitted: dict[str, Fitted] = {}
    if chosen.refit and fitted_on is not None and choice.removed:
        with clock("refit"):
            fitted, more = repair(
                analysis, pruned, choice.removed, chosen, fitted_on, backend, progress
            )
            notes += more
    out = _finish(pruned, chosen)
    with clock("verify"), progress.stage("Verifying") as step:
        check_file(proto, out)
        seen = fitted_on and fitted_on.take(JUDGES, chosen.seed)
        quality = [_quality(analysis, out, part) for part in (seen, held_out)]
        step()
    plan = _plan(analysis, choice.removed, chosen)
    report = _report(analysis, choice, out, samples, quality, fitted, clock, chosen, notes)
    return Result(out, report, plan)


def replay(
    model: Source,
    plan: Plan | str | Path,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Make the cut that a plan describes, without data and without a refit.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    chosen, clock = _settings({**settings, "refit": False}), _Clock()
    with clock("analyse"):
        analysis, samples = _analysed(model, chosen)
        removed = _removed_by(plan, analysis)
    with clock("cut"):
        pruned = _cut(analysis, removed, samples)
    out = _finish(pruned, chosen)
    with clock("verify"):
        check_file(analysis.proto, out)
    widths = _widths(analysis, removed)
    choice = Choice(widths, removed, (None,) * len(widths))
    report = _report(analysis, choice, out, samples, [None, None], {}, clock, chosen, [])
    return Result(out, report, _plan(analysis, removed, chosen))


def cut(model: Source, plan: Plan | str | Path) -> onnx.ModelProto:
    """Return the model without the channels that a plan removes; weights are sliced, not refitted.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    return replay(model, plan).model


def mask(model: Source, plan: Plan | str | Path) -> onnx.ModelProto:
    """Return the original graph with removed channels' entries zeroed in their consumers' weights.

    All nodes and shapes stay; the function is that of `cut`.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    analysis, _ = _analysed(model, Settings())
    masked = analysis.copy()
    mask_graph(masked, analysis.flow, _removed_by(plan, analysis))
    return masked.to_proto()


def _settings(given: Mapping[str, Any]) -> Settings:
    unknown = set(given) - set(Settings.__dataclass_fields__)
    if unknown:
        raise UsageError(
            "unknown settings",
            got=", ".join(sorted(unknown)),
            expected=", ".join(Settings.__dataclass_fields__),
        )
    return Settings(**given)


def _preprocess(settings: Settings) -> Preprocess:
    names = ("resize", "crop", "mean", "std", "scale", "color")
    return Preprocess(**{name: getattr(settings, name) for name in names})


def _samples(
    proto: onnx.ModelProto, data: Any, settings: Settings
) -> tuple[Calibration, list[str]]:
    inputs, preprocess = model_inputs(proto, settings.input_shapes), _preprocess(settings)
    if data is not None:
        samples = open_calibration(
            data, inputs, preprocess, samples=settings.samples, seed=settings.seed
        )
    else:
        count = settings.samples or SYNTHETIC_SAMPLES
        samples = synthetic_calibration(inputs, preprocess, samples=count, seed=settings.seed)
    return samples, list(samples.notes)


def _analysed(model: Source, settings: Settings) -> tuple[Analysis, Calibration]:
    proto = load(model)
    samples, _ = _samples(proto, None, settings)
    return analyse(proto, model_inputs(proto, settings.input_shapes), samples, settings), samples


def _split(samples: Calibration, settings: Settings) -> tuple[Calibration, Calibration | None]:
    if len(samples) < FEWEST_TO_SPLIT:
        return samples, None
    return samples.split(HELD_OUT, settings.seed)


def _cut(analysis: Analysis, removed: tuple[int, ...], samples: Calibration) -> Model:
    """Cut, and compare with the masked original, which must be the same function."""
    pruned, masked = analysis.copy(), analysis.copy()
    cut_graph(pruned, analysis.probe, analysis.flow, removed)
    mask_graph(masked, analysis.flow, removed)
    sizes = [analysis.fixed_batch] if analysis.fixed_batch else [1, 3]
    feeds = [next(iter(samples.batches(size, pad=True))) for size in sizes]
    check_cut(masked.to_proto(), pruned.to_proto(), feeds, analysis.providers)
    return pruned


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
    size = batch_size(analysis.probe, names, analysis.fixed_batch)
    return measure_quality(
        analysis.proto,
        out,
        samples,
        size,
        pad=analysis.fixed_batch is not None,
        providers=analysis.providers,
    )


def _removed_by(plan: Plan | str | Path, analysis: Analysis) -> tuple[int, ...]:
    """Look the plan's channels up in the model."""
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    groups = {group.name: group for group in analysis.groups}
    removed: list[int] = []
    for entry in plan.groups:
        group = groups.get(entry.name)
        if group is None or group.width != entry.width:
            raise ReapError(
                f"plan: group {entry.name} doesn't fit the model",
                got=f"{entry.width} channels",
                expected="no such group" if group is None else f"{group.width} channels",
                hint="replay a plan on the model that it was made for",
            )
        if not entry.kept or not set(entry.kept) <= set(range(group.width)):
            raise ReapError(
                f"plan: group {entry.name} keeps channels that don't exist, or none",
                got=str(list(entry.kept))[:80],
                expected=f"some of 0 to {group.width - 1}",
            )
        if group.parts is not None:
            counts = np.bincount(np.asarray(group.parts)[list(entry.kept)], minlength=group.step)
            if (counts != counts[0]).any():
                raise ReapError(
                    f"plan: group {entry.name} must keep equally many channels in each part",
                    got=str(counts.tolist()),
                )
        removed += [u for i, u in enumerate(group.units) if i not in set(entry.kept)]
    return tuple(removed)


def _widths(analysis: Analysis, removed: tuple[int, ...]) -> np.ndarray:
    gone = set(removed)
    return np.array([sum(u not in gone for u in group.units) for group in analysis.groups])


def _plan(analysis: Analysis, removed: tuple[int, ...], settings: Settings) -> Plan:
    gone = set(removed)
    kept = kept_positions(analysis.flow, removed)
    constants: dict[str, dict[str, list[int]]] = {}
    for binding in analysis.flow.bindings:
        cut = kept.get(binding.tensor)
        if cut is not None and cut[0] == binding.tensor_axis and binding.blocks == 1:
            axes = constants.setdefault(binding.constant, {})
            axes[str(binding.constant_axis)] = cut[1].tolist()
    groups = tuple(
        GroupPlan(
            group.name,
            group.width,
            tuple(i for i, unit in enumerate(group.units) if unit not in gone),
            group.producers,
            group.consumers,
        )
        for group in analysis.groups
    )
    frozen = tuple(FrozenPlan(f.node, f.channels, f.reason, f.cause) for f in analysis.frozen)
    return Plan(settings.chosen(), groups, constants, frozen)


def _report(
    analysis: Analysis,
    choice: Choice,
    out: onnx.ModelProto,
    samples: Calibration,
    quality: list[Quality | None],
    fitted: Mapping[str, Fitted],
    clock: _Clock,
    settings: Settings,
    notes: list[str],
) -> Report:
    batch = analysis.fixed_batch or 1
    feed = next(iter(samples.batches(batch, pad=True)))
    before, after = compare_latency(
        analysis.proto, out, feed, analysis.providers, seconds=LATENCY_SECONDS
    )
    full = np.array([group.width for group in analysis.groups])
    return Report(
        version=__version__,
        settings=settings.chosen(),
        calibration=samples.origin,
        provider=before.provider,
        before=_figures(analysis, analysis.proto, full, before),
        after=_figures(analysis, out, choice.widths, after),
        fitted=quality[0],
        held_out=quality[1],
        groups=tuple(
            GroupResult(g.name, g.width, int(w), g.producers, g.consumers, e)
            for g, w, e in zip(analysis.groups, choice.widths, choice.errors, strict=True)
        ),
        frozen=tuple(FrozenResult(f.node, f.channels, f.reason, f.cause) for f in analysis.frozen),
        refits=tuple(
            LayerRefit(node, f.damping, f.error_before, f.error_after) for node, f in fitted.items()
        ),
        seconds=clock.seconds,
        notes=tuple(notes),
    )


def _figures(
    analysis: Analysis, model: onnx.ModelProto, widths: np.ndarray, timing: Any
) -> Figures:
    return Figures(
        analysis.macs.at(widths),
        analysis.params.at(widths),
        model.ByteSize(),
        timing.median_ms,
        timing.spread_ms,
    )


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
