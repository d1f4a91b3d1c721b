"""Refitting the layers of blocks together, after each was refitted alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.data.split import Samples
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.weights import has_plain_bias
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.backward import OLDEST
from onnx_reap.measure.runner import batch_size
from onnx_reap.options import Settings
from onnx_reap.progress import Progress
from onnx_reap.prune.refit.block_walk import STEP, BlockFit, BlockSetup, refit_blocks
from onnx_reap.prune.refit.layerwise import as_cut
from onnx_reap.prune.refit.order import affected_tensors

PASSES = 10  # unless the user says how many,
ARITHMETIC = 3e11  # or forward passes take more multiply-accumulates than these
LARGEST = 2**23  # weights of a layer; wider ones stay as they were refitted


def passes_over(settings: Settings, macs: int, samples: Samples) -> int:
    """Return how often to go through the training samples; 0 where no block is refitted."""
    if settings.joint_refit is not None:
        return settings.joint_refit
    parts = samples.train_validation
    training = 0 if parts is None else len(parts[0])
    return PASSES if PASSES * macs * training <= ARITHMETIC else 0


def join(
    analysis: Analysis,
    pruned: Model,
    removed: Sequence[int],
    settings: Settings,
    samples: Samples,
    progress: Progress,
    *,
    macs: int,
) -> tuple[list[BlockFit], list[str]]:
    """Refit the blocks of a cut model in place; return what was fitted, and a note if nothing was.

    The note is for those who asked for it.
    """
    parts = samples.train_validation
    passes = passes_over(settings, macs, samples)
    if not passes:
        return [], []
    if parts is None or len(parts[0]) < (analysis.fixed_batch or 1):
        return [], _because(
            settings, f"{len(samples.fit or ())} samples are too few to leave a validation split"
        )
    if pruned.opset < OLDEST:
        why = f"it takes operator set {OLDEST} or newer, and the model's is {pruned.opset}"
        return [], _because(settings, why)
    kept = kept_positions(analysis.flow, removed)
    affected = affected_tensors(pruned, kept.keys())
    left = {pruned.keys[id(node)] for node in pruned.nodes}
    linears = [
        as_cut(linear, kept)
        for linear in analysis.flow.linears
        if linear.node in left and not linear.recurrent
    ]
    layers = _movable(pruned, linears)
    if not layers:
        return [], _because(settings, "it takes layers with weights of their own only")
    names = [name for layer in layers for name in (layer.x, layer.y)]
    widest = max(names, key=lambda name: np.prod(analysis.probe.shapes[name]))
    batch = batch_size(analysis.probe, [widest] * 4, analysis.fixed_batch)
    setup = BlockSetup(
        linears=linears,
        biased={layer.node for layer in layers if layer.x in affected},
        kept=kept,
        probe=analysis.probe,
        calibration=parts[0].followed_by(parts[1]),
        fit_samples=len(parts[0]),
        batch=batch if analysis.fixed_batch else min(batch, STEP, len(parts[0])),
        pad=analysis.fixed_batch is not None,
        providers=analysis.providers,
        passes=passes,
        seed=settings.seed,
    )
    with progress.stage("Refitting blocks", len(pruned.nodes)) as step:
        blocks = refit_blocks(analysis.model, pruned, layers, setup, step)
    why = "no gradient gets from behind a block to its layers"
    return blocks, [] if blocks else _because(settings, why)


def _because(settings: Settings, why: str) -> list[str]:
    return [f"--joint-refit changed nothing: {why}"] if settings.joint_refit else []


def _movable(pruned: Model, linears: Sequence[Linear]) -> list[Linear]:
    """List the layers that may move."""
    users = Counter(tensor.name for node in pruned.nodes for tensor in node.inputs)
    users.update(captured_tensors(pruned.nodes).keys())
    users.update(tensor.name for tensor in pruned.graph.outputs)
    layers = []
    for linear in linears:
        weight, *bias = [t for t in pruned.node(linear.node).inputs[1:3] if t.name]
        now = replace(linear, bias=bias[0].name if bias else None)
        alone = all(users[tensor.name] == 1 for tensor in (weight, *bias))
        fits = weight.values.size <= LARGEST and now.op != "ConvTranspose"
        if alone and fits and has_plain_bias(pruned, now):
            layers.append(now)
    return layers
