"""The report of a run, from what its stages found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx

from onnx_reap.analysis import Analysis
from onnx_reap.choice import Choice
from onnx_reap.data import Calibration
from onnx_reap.refit.layer import Fitted
from onnx_reap.report.latency import Timing, compare_latency
from onnx_reap.report.records import (
    Figures,
    FrozenResult,
    GroupResult,
    LayerRefit,
    Quality,
    Report,
)
from onnx_reap.settings import Settings
from onnx_reap.version import __version__

LATENCY_SECONDS = 1.0


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def make_report(
    analysis: Analysis,
    choice: Choice,
    out: onnx.ModelProto,
    samples: Calibration,
    settings: Settings,
    clock: Clock,
    *,
    macs: int,
    params: int,
    fitted: Quality | None = None,
    held_out: Quality | None = None,
    refits: Mapping[str, Fitted] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Measure latencies, and put all together.

    Parameters
    ----------
    out : onnx.ModelProto
        The model that will be written.
    macs, params : int
        Counted on it.
    samples : Calibration
        One of them, or one batch where the model's batch is fixed, is what latencies are measured
        on.
    fitted, held_out : Quality, optional
    refits : mapping of str to Fitted, optional
        By node.
    notes : sequence of str
    """
    feed = next(iter(samples.batches(analysis.fixed_batch or 1, pad=True)))
    before, after = compare_latency(
        analysis.proto, out, feed, analysis.providers, seconds=LATENCY_SECONDS
    )
    full = np.array([group.width for group in analysis.groups])
    return Report(
        version=__version__,
        settings=settings.chosen(),
        calibration=samples.origin,
        provider=before.provider,
        before=_figures(analysis.macs.at(full), analysis.params.at(full), analysis.proto, before),
        after=_figures(macs, params, out, after),
        fitted=fitted,
        held_out=held_out,
        groups=tuple(
            GroupResult(g.name, g.width, int(w), g.producers, g.consumers, e)
            for g, w, e in zip(analysis.groups, choice.widths, choice.errors, strict=True)
        ),
        frozen=tuple(FrozenResult(f.node, f.channels, f.reason, f.cause) for f in analysis.frozen),
        refits=tuple(
            LayerRefit(node, f.damping, f.error_before, f.error_after)
            for node, f in (refits or {}).items()
        ),
        seconds=clock.seconds,
        notes=(*notes, *_unmeasured(out, held_out or fitted)),
    )


def _figures(macs: int, params: int, model: onnx.ModelProto, timing: Timing) -> Figures:
    return Figures(macs, params, model.ByteSize(), timing.median_ms, timing.spread_ms)


def _unmeasured(out: onnx.ModelProto, quality: Quality | None) -> list[str]:
    """Name the outputs that no error was measured of."""
    names = [v.name for v in out.graph.output if quality and v.name not in quality.output_error]
    if not names:
        return []
    return [f"no output error of {', '.join(names)}: only real numbers of equal shape are compared"]
