"""From chosen channels to a finished model: cut, compare with the mask, refit, check."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.split import train_and_validation
from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis, count_parameters, macs_left
from onnx_reap.graph.edit.cut import cut_graph
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.graph.edit.merge import NOTHING, Merge, merge_units
from onnx_reap.graph.edit.weights import remember
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.measure.compare import CUT, check_loads, compare
from onnx_reap.measure.quality import measure_quality
from onnx_reap.onnxio import aside
from onnx_reap.options import Settings
from onnx_reap.prune.context import Work
from onnx_reap.prune.decide import Choice
from onnx_reap.prune.low_rank.factoring import settled
from onnx_reap.prune.refit.block_walk import Stretched
from onnx_reap.prune.refit.blockwise import join
from onnx_reap.prune.refit.layerwise import repair
from onnx_reap.prune.refit.walk import Fit
from onnx_reap.version import __version__


@dataclass(frozen=True)
class Made:
    """A finished model.

    Attributes
    ----------
    model : onnx.ModelProto
    macs, params : int
        Counted on it.
    refits : dict of str to Fit
        By node; empty without a refit.
    held : Model
        Holds the model's weights that are set aside.
    blocks : tuple of Stretched
        Blocks whose layers were then refitted together.
    notes : tuple of str
        Warnings.
    """

    choice: Choice
    model: onnx.ModelProto
    macs: int
    params: int
    refits: dict[str, Fit]
    blocks: tuple[Stretched, ...]
    notes: tuple[str, ...]
    held: Model


def make(work: Work, choice: Choice, *, joint: bool = True) -> Made:
    """Cut a model, and refit what stays if the settings want it, blocks together if `joint`."""
    return replace(_made(*settled(work, choice), joint=joint), choice=choice)


def _made(work: Work, choice: Choice, *, joint: bool) -> Made:
    with work.clock("cut"):
        pruned, notes = cut_and_compare(
            work.analysis, choice.removed, work.samples.every, choice.merge
        )
    refits: dict[str, Fit] = {}
    blocks: list[Stretched] = []
    macs = macs_left(work.analysis, pruned, choice.widths)
    if work.settings.refit and work.samples.fit is not None and choice.removed:
        with work.clock("refit"):
            refits, unfitted = repair(
                work.analysis,
                pruned,
                choice.removed,
                work.settings,
                work.samples.fit,
                work.backend,
                work.progress,
            )
            notes += unfitted
        if joint:
            with work.clock("joint refit"):
                blocks, unjoined = _joined(work, pruned, choice.removed, work.samples.fit, macs)
                notes += unjoined
    elif work.settings.joint_refit:
        notes.append("--joint-refit changed nothing: no channel was removed")
    out = finish(pruned, work.settings)
    params = count_parameters(out)
    return Made(choice, out, macs, params, refits, tuple(blocks), tuple(notes), pruned)


def _joined(
    work: Work, pruned: Model, removed: Sequence[int], samples: Calibration, macs: int
) -> tuple[list[Stretched], list[str]]:
    """Refit blocks together; take it back if samples that judge find the outputs further away.

    A block may come nearer in directions that the outputs don't feel.
    """
    analysis, settings = work.analysis, work.settings
    undo = remember(pruned)
    blocks, notes = join(analysis, pruned, removed, settings, samples, work.progress, macs=macs)
    parts = train_and_validation(samples, settings.seed)
    if parts is None or not any(block.error_after < block.error_before for block in blocks):
        return blocks, notes
    new, redo = _distance(analysis, pruned, parts[1]), remember(pruned)
    undo()
    old = _distance(analysis, pruned, parts[1])
    if new <= old:
        redo()
        return blocks, notes
    back = "blocks were not refitted together: on samples that judge, the outputs' error rose"
    return [], [*notes, f"{back} from {old:.2g} to {new:.2g}"]


def _distance(analysis: Analysis, pruned: Model, samples: Calibration) -> float:
    """Mean error of the outputs in float32, which tells more; infinite where they aren't finite."""
    try:
        errors = measure_quality(
            analysis, analysis.model.to_run(), pruned.to_run(), samples
        ).output_error
    except CheckError:
        return math.inf
    return float(np.mean(list(errors.values()))) if errors else 0.0


def cut_and_compare(
    analysis: Analysis, removed: tuple[int, ...], samples: Calibration, merge: Merge = NOTHING
) -> tuple[Model, list[str]]:
    """Cut, and compare with the masked original, which must be the same function.

    Parameters
    ----------
    removed : tuple of int
        Units.
    merge : Merge
        What units that stay take over first.

    Returns
    -------
    pruned : Model
    notes : list of str

    Raises
    ------
    CheckError
        If the two differ.
    """
    pruned, masked = analysis.copy(), analysis.copy()
    merge_units(pruned, analysis.flow, merge)
    merge_units(masked, analysis.flow, merge)
    cut_graph(pruned, analysis.probe, analysis.flow, removed, analysis.branches)
    mask_graph(masked, analysis.flow, removed)
    sizes = [analysis.fixed_batch] if analysis.fixed_batch else [1, 3]
    feeds = [next(iter(samples.batches(size, pad=True))) for size in sizes]
    kept = kept_positions(analysis.flow, removed)
    _, notes = compare(
        masked.to_run(), pruned.to_run(), feeds, analysis.providers, CUT, places=kept
    )
    del masked
    if aside.any_aside(analysis.proto):
        gc.collect()  # nodes and tensors refer to each other, and the masked weights are large
    if analysis.model.types and analysis.runs_as_given:
        check_loads(pruned.to_proto(), analysis.providers)
    return pruned, notes


def finish(pruned: Model, settings: Settings) -> onnx.ModelProto:
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
