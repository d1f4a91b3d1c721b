"""Outputs of a model on the samples of a run, and which of them are class scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.measure.sensitivity.divergence import metrics
from onnx_reap.onnxio.session import run, session
from onnx_reap.prune.context import Run as Work

BATCH = 16


def class_outputs(work: Work) -> list[str]:
    """List the outputs that hold a vector of class scores per sample."""
    probe, seen = work.analysis.probe, work.analysis.fixed_batch or work.analysis.probe.batch
    kinds = metrics(work.analysis.model, probe.shapes, probe.dtypes, work.settings.metric)
    shapes = {kind.output: probe.shapes[kind.output] for kind in kinds if kind.kind != "values"}
    return [n for n, shape in shapes.items() if shape[0] == seen and np.prod(shape[2:]) == 1]


def class_scores(work: Work, samples: Calibration, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Run a model; return class scores, (samples, classes), by output of a classifier."""
    names = class_outputs(work)
    scores = outputs_on(work, samples, model, names) if names else {}
    return {name: x.reshape(len(x), -1) for name, x in scores.items()}


def outputs_on(
    work: Work, samples: Calibration, model: onnx.ModelProto, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Run a model on all samples, without what fills up its last batch."""
    analysis = work.analysis
    batch = analysis.fixed_batch or BATCH
    active = session(analysis.runnable(model), analysis.providers)
    feeds = samples.batches(batch, pad=analysis.fixed_batch is not None)
    found = [run(active, names, feed) for feed in feeds]
    return {name: np.concatenate([f[name] for f in found])[: len(samples)] for name in names}
