"""From a choice of channels to a pruned model: cut, verify against the mask, refit."""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx

from onnx_reap import __version__
from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis, count_parameters, macs_left
from onnx_reap.graph.edit.cut import cut_graph
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.graph.edit.merge import NOTHING, Merge, merge_units
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.measure.accuracy_loss import EstimatedLoss
from onnx_reap.measure.compare import CUT, check_loads, compare
from onnx_reap.measure.unrounded import unrounded
from onnx_reap.onnxio.check import check_file
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.weights import with_weights
from onnx_reap.options import Settings
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import Choice
from onnx_reap.prune.refit.repairs import Repairs, repair_all


@dataclass(frozen=True)
class Pruned:
    """A pruned model."""

    choice: Choice
    model: LightModel
    # Counted on it
    macs: int
    params: int
    repairs: Repairs
    notes: tuple[str, ...]  # Warnings
    loss: EstimatedLoss | None = None  # Where it was bounded


def apply_choice(run: Run, choice: Choice, *, by_gradient: bool = True) -> Pruned:
    """Cut a model, and repair what stays as the settings want it, see `repair_all`."""
    analysis, own = run.form.settled(choice)
    run = run.on(analysis)
    with run.clock("cut"):
        pruned, notes = cut_model(analysis, own.removed, run.samples.every, own.merge)
    macs = macs_left(analysis, pruned, own.widths)
    repairs = repair_all(run, pruned, own.removed, by_gradient=by_gradient)
    out = finish(pruned, run.settings)
    pruned.free_weights()
    params, notes = count_parameters(out), [*notes, *repairs.notes]
    return Pruned(choice, out, macs, params, repairs, tuple(notes))


def cut_model(
    analysis: Analysis,
    removed: tuple[int, ...],
    samples: Calibration,
    merge: Merge = NOTHING,
    *,
    verify: bool = True,
) -> tuple[Model, list[str]]:
    """Cut a model, and verify that it is the same function as the masked original.

    Parameters
    ----------
    removed : tuple of int
        Units.
    merge : Merge
        Units that are merged into others first.
    verify : bool
        Whether to run both models; the shape of a cut model alone needs no proof.
    """
    pruned = analysis.copy()
    merge_units(pruned, analysis.flow, merge)
    cut_graph(pruned, analysis.probe, analysis.flow, removed, analysis.branches)
    return pruned, _verified(analysis, pruned, removed, samples, merge) if verify else []


def _verified(
    analysis: Analysis,
    pruned: Model,
    removed: tuple[int, ...],
    samples: Calibration,
    merge: Merge,
) -> list[str]:
    """Compare a cut model with the masked original, see `cut_model`."""
    masked = analysis.copy()
    merge_units(masked, analysis.flow, merge)
    mask_graph(masked, analysis.flow, removed)
    sizes = [analysis.fixed_batch] if analysis.fixed_batch else [1, 3]
    feeds = [next(iter(samples.batches(size, pad=True))) for size in sizes]
    dynamic = analysis.probe.dynamic
    places = {
        name: None if place[0] in dynamic.get(name, ()) else place
        for name, place in kept_positions(analysis.flow, removed).items()
    }
    shapes = analysis.probe.shapes
    whole, cut = (unrounded(each.to_run(), shapes) for each in (masked, pruned))
    try:
        _, notes = compare(whole, cut, feeds, analysis.providers, CUT, places=places)
    finally:
        masked.free_weights()  # they may be large
    if analysis.model.types and analysis.runs_as_given:
        check_loads(pruned.to_file(), analysis.providers)
    elif pruned.runs_unlike_file and analysis.runs_as_given and not pruned.stored:
        # What ran has nodes where calls, and bodies of If, are written.
        written = pruned.to_file()
        _, doubts = compare(pruned.to_run(), written, feeds, analysis.providers, CUT)
        notes += [note for note in doubts if note not in notes]
    return notes


def sliced_model(run: Run, removed: tuple[int, ...]) -> onnx.ModelProto:
    """Return the verified model without some units, and nothing refitted."""
    pruned, _ = cut_model(run.analysis, removed, run.samples.every)
    out = finish(pruned, run.settings)
    pruned.free_weights()
    check_file(run.analysis.light, out)
    return out.whole()


def masked_model(analysis: Analysis, removed: tuple[int, ...]) -> onnx.ModelProto:
    """Return the model with removed units' entries zeroed in their consumers' weights."""
    masked = analysis.copy()
    before = {name: constant.values for name, constant in masked.constants().items()}
    mask_graph(masked, analysis.flow, removed)
    after = {name: constant.values for name, constant in masked.constants().items()}
    changed = {name: values for name, values in after.items() if values is not before[name]}
    if masked.stored or masked.runs_unlike_file or not _read_as_given(masked, changed):
        return masked.to_proto()
    return replace(analysis.light, proto=with_weights(analysis.light.proto, changed)).whole()


def _read_as_given(model: Model, constants: Collection[str]) -> bool:
    """Whether the nodes that read some constants are those that do in the file as given.

    Others may have been folded, which need what the constants were.
    """
    given = Counter(name for node in model.light.graph.node for name in node.input)
    read = Counter(tensor.name for node in model.nodes for tensor in node.inputs)
    return all(given[name] == read[name] for name in constants)


def finish(pruned: Model, settings: Settings) -> LightModel:
    """Write the model, with the tool's version and settings in its metadata."""
    out = pruned.to_file()
    own = {
        "onnx_reap.version": __version__,
        "onnx_reap.settings": json.dumps(settings.chosen(), default=str, sort_keys=True),
    }
    others = [entry for entry in out.proto.metadata_props if entry.key not in own]
    del out.proto.metadata_props[:]
    out.proto.metadata_props.extend(others)
    out.proto.metadata_props.extend(
        onnx.StringStringEntryProto(key=k, value=v) for k, v in own.items()
    )
    return out
