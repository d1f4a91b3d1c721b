"""The result of a run, and its report, from what the run came to."""

from onnx_reap import __version__
from onnx_reap.graph.analysis import count_parameters
from onnx_reap.measure.latency.compare import Timing
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.conclude import Outcome
from onnx_reap.prune.lossless.trim import Lossless
from onnx_reap.prune.sparsity.records import Tiling
from onnx_reap.report.records import (
    Figures,
    GroupResult,
    Loss,
    Report,
)
from onnx_reap.report.result import Result


def make_result(
    outcome: Outcome, *, lossless: Lossless | None = None, tiling: Tiling | None = None
) -> Result:
    """Put the model, its plan and a report together: what was done, and what it came to."""
    run, pruned = outcome.run, outcome.pruned
    analysis, choice, loss = run.analysis, pruned.choice, pruned.loss
    full = analysis.full_widths
    macs, params = analysis.macs.at(full), count_parameters(analysis.light)
    report = Report(
        version=__version__,
        settings=run.settings.chosen(),
        calibration=run.samples.every.origin,
        provider=outcome.before.provider,
        before=_figures(macs, params, analysis.light, outcome.before),
        after=_figures(pruned.macs, pruned.params, pruned.model, outcome.after),
        fitted=outcome.fitted,
        held_out=outcome.held_out,
        loss=None if loss is None else Loss(**vars(loss), limit=run.settings.max_drop or 0.0),
        lossless=lossless,
        groups=tuple(
            GroupResult(g.name, g.width, int(w), g.producers, g.consumers, e)
            for g, w, e in zip(analysis.groups, choice.widths, choice.errors, strict=True)
        ),
        frozen=analysis.frozen,
        refits=tuple(pruned.repairs.layers.values()),
        factors=tuple(outcome.factors),
        blocks=pruned.repairs.blocks,
        network=pruned.repairs.network,
        tiling=tiling,
        seconds=run.clock.seconds,
        notes=pruned.notes,
    )
    return Result(pruned.model, report, outcome.plan)


def _figures(macs: int, params: int, model: LightModel, timing: Timing) -> Figures:
    return Figures(macs, params, model.size, timing.median_ms, timing.spread_ms)
