"""Refitting the layers of blocks together, after each was refitted alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.graph.edit.weights import has_plain_bias
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.kept import Kept, kept_positions
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.backward import OLDEST
from onnx_reap.measure.runner import batch_size
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.block_walk import STEP, BlockFit, refit_blocks
from onnx_reap.prune.refit.layerwise import as_cut
from onnx_reap.prune.refit.model_pair import ModelPair

PASSES = 10  # over the training samples, unless the user says how many
ARITHMETIC = 3e11  # multiply-accumulates of all forward passes, past which nothing is refitted
LARGEST = 2**23  # weights of a layer; wider ones stay as they were refitted


def passes_over(run: Run, macs: int) -> int:
    """Return how often to go through the training samples; 0 where no block is refitted."""
    if run.settings.joint_refit is not None:
        return run.settings.joint_refit
    parts = run.samples.train_validation
    training = 0 if parts is None else len(parts[0])
    return PASSES if PASSES * macs * training <= ARITHMETIC else 0


def refit_jointly(
    run: Run, pruned: Model, removed: Sequence[int], *, macs: int
) -> tuple[list[BlockFit], list[str]]:
    """Refit the blocks of a cut model in place; return what was fitted, and a note if nothing was.

    The note is for those who asked for it.
    """
    passes = passes_over(run, macs)
    if not passes:
        return [], []
    kept = kept_positions(run.analysis.flow, removed)
    linears = linears_left(run, pruned, kept)
    layers = _movable(pruned, linears)
    why = obstacle(run, pruned)
    if why is None and not layers:
        why = "it takes layers with weights of their own only"
    if why is None:
        pair = ModelPair(run, pruned, kept, _batch(run, layers))
        with run.progress.stage("Refitting blocks", len(pruned.nodes)) as step:
            blocks = refit_blocks(pair, linears, layers, passes, step)
        if blocks:
            return blocks, []
        why = "no gradient gets from behind a block to its layers"
    return [], [f"--joint-refit changed nothing: {why}"] if run.settings.joint_refit else []


def linears_left(run: Run, pruned: Model, kept: Kept) -> list[Linear]:
    """List the layers of a cut model that are not recurrent, as they are after the cut."""
    left = {pruned.keys[id(node)] for node in pruned.nodes}
    return [
        as_cut(linear, kept)
        for linear in run.analysis.flow.linears
        if linear.node in left and not linear.recurrent
    ]


def obstacle(run: Run, pruned: Model) -> str | None:
    """Tell why layers of this model can't be refitted by gradient, if that is so."""
    parts = run.samples.train_validation
    if parts is None or len(parts[0]) < (run.analysis.fixed_batch or 1):
        return f"{len(run.samples.fit or ())} samples are too few to leave a validation split"
    if pruned.opset < OLDEST:
        return f"it takes operator set {OLDEST} or newer, and the model's is {pruned.opset}"
    return None


def _batch(run: Run, layers: Sequence[Linear]) -> int:
    analysis, parts = run.analysis, run.samples.train_validation
    names = [name for layer in layers for name in (layer.x, layer.y)]
    widest = max(names, key=lambda name: np.prod(analysis.probe.shapes[name]))
    batch = batch_size(analysis.probe, [widest] * 4, analysis.fixed_batch)
    return batch if analysis.fixed_batch or parts is None else min(batch, STEP, len(parts[0]))


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
