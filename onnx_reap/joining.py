"""Refitting the layers of blocks together, after each was refitted alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.analysis import Analysis
from onnx_reap.capture.moments import batch_size
from onnx_reap.data import Calibration
from onnx_reap.graph.kept import kept_positions
from onnx_reap.graph.model import Model
from onnx_reap.graph.records import Linear
from onnx_reap.graph.weights import has_plain_bias
from onnx_reap.joint.walk import Course, Stretched, refit_together
from onnx_reap.progress import Progress
from onnx_reap.repair import as_cut
from onnx_reap.samples import teachers_and_judges
from onnx_reap.settings import Settings

BATCH = 32  # samples a step
PASSES = 10  # unless the user says how many,
ARITHMETIC = 3e11  # or forward passes take more multiply-accumulates than these
LARGEST = 2**23  # weights of a layer; wider ones stay as they were refitted


def join(
    analysis: Analysis,
    pruned: Model,
    removed: Sequence[int],
    settings: Settings,
    calibration: Calibration,
    progress: Progress,
    *,
    macs: int,
) -> list[Stretched]:
    """Refit the blocks of a cut model in place.

    Parameters
    ----------
    macs : int
        Of the cut model.
    """
    parts = teachers_and_judges(calibration, settings.seed)
    passes = _passes(settings, macs, 0 if parts is None else len(parts[0]))
    if parts is None or not passes:
        return []
    kept = kept_positions(analysis.flow, removed)
    layers = _layers(analysis, pruned, kept)
    names = [name for layer in layers for name in (layer.x, layer.y)]
    widest = max(names, key=lambda name: np.prod(analysis.probe.shapes[name]), default=None)
    batch = batch_size(analysis.probe, [widest] * 4 if widest else [], analysis.fixed_batch)
    course = Course(
        kept=kept,
        probe=analysis.probe,
        calibration=parts[0].followed_by(parts[1]),
        learn=len(parts[0]),
        batch=batch if analysis.fixed_batch else min(batch, BATCH),
        pad=analysis.fixed_batch is not None,
        providers=analysis.providers,
        passes=passes,
        seed=settings.seed,
    )
    with progress.stage("Refitting blocks", len(pruned.nodes)) as step:
        return refit_together(analysis.model, pruned, layers, course, step)


def _passes(settings: Settings, macs: int, samples: int) -> int:
    """Return how often to go through the samples that teach."""
    if settings.joint_refit is not None:
        return settings.joint_refit
    return PASSES if PASSES * macs * samples <= ARITHMETIC else 0


def _layers(
    analysis: Analysis, pruned: Model, kept: Mapping[str, tuple[int, np.ndarray]]
) -> list[Linear]:
    """List the layers that may move, as they are now."""
    users: dict[str, int] = {}
    left = {pruned.keys[id(node)]: node for node in pruned.nodes}
    for node in pruned.nodes:
        for tensor in node.inputs:
            users[tensor.name] = users.get(tensor.name, 0) + 1
    layers = []
    for linear in (each for each in analysis.flow.linears if each.node in left):
        node = left[linear.node]
        weight, *bias = [tensor for tensor in node.inputs[1:3] if tensor.name]
        alone = all(users[tensor.name] == 1 for tensor in (weight, *bias))
        small = weight.values.size <= LARGEST
        if alone and small and linear.op != "ConvTranspose" and has_plain_bias(pruned, linear):
            now = as_cut(linear, kept)
            layers.append(replace(now, bias=bias[0].name if bias else None))
    return layers
