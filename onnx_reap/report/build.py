"""The report of a run, from what its stages found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import onnx

from onnx_reap.measure.accuracy_loss import EstimatedLoss
from onnx_reap.measure.latency.compare import Timing, compare_latency
from onnx_reap.measure.quality import Quality
from onnx_reap.measure.runner import first_feed
from onnx_reap.onnxio import aside
from onnx_reap.prune.apply import Made
from onnx_reap.prune.context import Work
from onnx_reap.report.records import (
    BlockRefit,
    FactorResult,
    Figures,
    FrozenResult,
    GroupResult,
    LayerRefit,
    Loss,
    Lossless,
    Report,
    Tiling,
)
from onnx_reap.version import __version__

UNSTEADY = 0.5  # of the median: runs that spread by more tell nothing
LATENCY_SECONDS = 0.5


def make_report(
    work: Work,
    made: Made,
    *,
    fitted: Quality | None = None,
    held_out: Quality | None = None,
    drop: EstimatedLoss | None = None,
    lossless: Lossless | None = None,
    factors: Sequence[FactorResult] = (),
    tiling: Tiling | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Measure latencies, and put all together.

    Parameters
    ----------
    fitted, held_out : Quality, optional
    drop : EstimatedLoss, optional
        What was lost, where that was bounded.
    lossless : Lossless, optional
        What went, where nothing was to be lost.
    factors : sequence of FactorResult
        Layers that became two, and groups in another basis.
    tiling : Tiling, optional
        What was zeroed in a pattern.
    notes : sequence of str
    """
    analysis, samples = work.analysis, work.samples.every
    # One sample, or one batch where the model's batch is fixed.
    feed = first_feed(analysis, samples)
    before, after = compare_latency(
        analysis.runnable(analysis.proto),
        analysis.runnable(made.model),
        feed,
        analysis.providers,
        seconds=LATENCY_SECONDS,
    )
    full = np.array([group.width for group in analysis.groups])
    return Report(
        version=__version__,
        settings=work.settings.chosen(),
        calibration=samples.origin,
        provider=before.provider,
        before=_figures(analysis.macs.at(full), analysis.params.at(full), analysis.proto, before),
        after=_figures(made.macs, made.params, made.model, after),
        fitted=fitted,
        held_out=held_out,
        loss=None if drop is None else Loss(**asdict(drop), limit=work.settings.max_drop or 0.0),
        lossless=lossless,
        groups=tuple(
            GroupResult(g.name, g.width, int(w), g.producers, g.consumers, e)
            for g, w, e in zip(analysis.groups, made.choice.widths, made.choice.errors, strict=True)
        ),
        frozen=tuple(FrozenResult(f.node, f.channels, f.reason, f.cause) for f in analysis.frozen),
        refits=tuple(
            LayerRefit(node, f.damping, f.error_before, f.error_after)
            for node, f in made.refits.items()
        ),
        factors=tuple(factors),
        blocks=tuple(BlockRefit(**asdict(block)) for block in made.blocks),
        tiling=tiling,
        seconds=work.clock.seconds,
        notes=(*notes, *_unmeasured(made.model, held_out or fitted), *_unsteady(work, after)),
    )


def _figures(macs: int, params: int, model: onnx.ModelProto, timing: Timing) -> Figures:
    return Figures(macs, params, aside.size_of(model), timing.median_ms, timing.spread_ms)


def _unmeasured(out: onnx.ModelProto, quality: Quality | None) -> list[str]:
    """Name the outputs that no error was measured of."""
    names = [v.name for v in out.graph.output if quality and v.name not in quality.output_error]
    if not names:
        return []
    return [f"no output error of {', '.join(names)}: only real numbers of equal shape are compared"]


def _unsteady(work: Work, timing: Timing) -> list[str]:
    """Tell if a latency was asked for where none can be measured."""
    if work.settings.target_latency is None or timing.spread_ms <= UNSTEADY * timing.median_ms:
        return []
    return [
        f"the machine was busy: half of the runs took {timing.median_ms:.3g} ms give or take "
        f"{timing.spread_ms / 2:.2g} ms, so nothing tells whether --target-latency is met"
    ]
