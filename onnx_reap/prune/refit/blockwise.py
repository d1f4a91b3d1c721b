"""Refitting the layers of blocks together, after each was refitted alone."""

from collections.abc import Sequence

import numpy as np

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.runner import batch_size
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.block_walk import BlockFit, refit_blocks
from onnx_reap.prune.refit.descent import SAMPLES_PER_STEP
from onnx_reap.prune.refit.model_pair import ModelPair, linears_left
from onnx_reap.prune.refit.pace import Pace
from onnx_reap.prune.refit.side_by_side import AT_ONCE


def refit_jointly(
    run: Run, pruned: Model, removed: Sequence[int], *, copies: int = 0
) -> tuple[list[BlockFit], list[str]]:
    """Refit the blocks of a cut model in place; return what was fitted, and notes.

    Parameters
    ----------
    copies : int
        Of every sample, to fit as well.
    """
    asked = run.settings.joint_refit
    if asked == 0:
        return [], []
    kept = kept_positions(run.analysis.flow, removed)
    linears = linears_left(run, pruned, kept)
    why = "it takes layers with weights of their own"
    if linears:
        pace = Pace(asked, run.clock.left)
        pair = ModelPair(run, pruned, kept, _batch(run, linears), copies)
        with run.progress.stage("Refitting blocks", len(pruned.nodes)) as step:
            blocks = refit_blocks(pair, linears, pace, step)
        if blocks or pace.notes():
            return blocks, pace.notes()
        why = "no gradient gets from behind a block to its layers"
    return [], [f"--joint-refit changed nothing: {why}"] if asked else []


def _batch(run: Run, layers: Sequence[Linear]) -> int:
    analysis, parts = run.analysis, run.samples.train_validation
    names = [name for layer in layers for name in (layer.x, layer.y)]
    widest = max(names, key=lambda name: np.prod(analysis.probe.shapes[name]))
    batch = batch_size(analysis.probe, [widest] * 4, analysis.fixed_batch)
    if analysis.fixed_batch or parts is None:
        return batch
    return min(batch, SAMPLES_PER_STEP // AT_ONCE, len(parts[0]))
