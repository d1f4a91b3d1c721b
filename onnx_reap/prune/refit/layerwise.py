"""Refitting the layers behind a cut."""

from collections.abc import Collection, Mapping, Set

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.constancy import Join
from onnx_reap.graph.edit.weights import bias_behind
from onnx_reap.graph.epilogue import Epilogue, clipping, find_epilogue, only_reader
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import affected_tensors
from onnx_reap.graph.ir.recurrent import recurrence
from onnx_reap.graph.labels.kept import Kept, kept_positions
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.uses import Refittable, by_weight
from onnx_reap.measure.runner import batch_size
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.layer import LayerRefit
from onnx_reap.prune.refit.model_pair import ModelPair, as_cut
from onnx_reap.prune.refit.order import Job, Zeros, own_output
from onnx_reap.prune.refit.walk import refit_model

WIDEST = 8192
"""Inputs of a layer with zeros: all pairs of them are held, many times."""

TOO_LARGE = "its new weights would be too large for their type"


def repair(
    run: Run,
    pruned: Model,
    removed: Collection[int],
    *,
    zeros: Mapping[str, Zeros] | None = None,
    copies: int = 0,
    on_all: bool = True,
) -> tuple[dict[str, LayerRefit], list[str]]:
    """Refit a cut model in place; return what was fitted, and notes on layers that were not.

    Parameters
    ----------
    zeros : mapping of str to Zeros, optional
        By node, for layers that have zeros to keep.
    copies : int
        Of every sample, to fit as well.
    on_all : bool
        Whether the validation split is fitted as well, once it has chosen dampings. Then it has
        nothing more to say of the model.
    """
    analysis = run.analysis
    kept = kept_positions(analysis.flow, removed)
    jobs, notes = _jobs(analysis, pruned, set(removed), kept, zeros or {})
    names = [job.linear.x for job in jobs] + [job.epilogue.tensor for job in jobs]
    widest = max(names, key=lambda name: np.prod(analysis.probe.shapes[name]), default=None)
    batch = batch_size(analysis.probe, [widest] * 3 if widest else [], analysis.fixed_batch)
    with run.progress.stage("Refitting layers", len(jobs)) as step:
        fitted, large = refit_model(ModelPair(run, pruned, kept, batch, copies, on_all), jobs, step)
    return fitted, notes + [f"{node} was not refitted: {TOO_LARGE}" for node in large]


def has_bias(model: Model, linear: Linear) -> bool:
    """Whether a refit finds a place for the intercept: a bias, or a constant added to a MatMul."""
    if linear.bias is not None or linear.op != "MatMul":
        return linear.bias is not None
    return bias_behind(model, model.node(linear.node)) is not None


def _jobs(
    analysis: Analysis,
    pruned: Model,
    removed: Collection[int],
    kept: Kept,
    zeros: Mapping[str, Zeros],
) -> tuple[list[Job], list[str]]:
    """List the layers that receive something else than before, with what follows each."""
    gone = analysis.branches.vanished(removed)
    nodes = {pruned.keys[id(node)]: place for place, node in enumerate(pruned.nodes)}
    joins = [join for branch in gone for join in branch.joins if join.edge[0] in nodes]
    sums = {pruned.node(join.edge[0]).outputs[0].name for join in joins}
    masked = {linear.y for linear in analysis.flow.linears if linear.node in zeros}
    affected = affected_tensors(pruned.nodes, kept.keys() | sums | masked)
    jobs, notes = [], []
    for join in joins:
        (key, _), rank = join.edge, len(analysis.probe.shapes[join.tensor])
        if len(pruned.node(key).inputs) == 2 and join.axis in (1, rank - 1):
            jobs.append(_constant(pruned, join, rank))
        else:
            notes.append(f"{key} was not refitted: more than two addends, or an unusual layout")
    present = [as_cut(each, kept) for each in analysis.flow.linears if each.node in nodes]
    refittable = Refittable(pruned, analysis.probe)
    for layers in by_weight(present):
        found = [_job(analysis, pruned, layer, kept, zeros) for layer in layers]
        moved = (_must_move(job, affected, sums) for job in found)
        if not any(moved):
            continue
        why = refittable.obstacle(layers)
        if why is None and any(_is_too_wide(job) for job in found):
            why = "it has too many inputs for its zeros"
        if why is None:
            jobs += found
        else:
            notes += [f"{layer.node} was not refitted: {why}" for layer in layers]
    return sorted(jobs, key=lambda job: nodes[job.linear.node]), notes


def _job(
    analysis: Analysis, pruned: Model, linear: Linear, kept: Kept, zeros: Mapping[str, Zeros]
) -> Job:
    epilogue = _epilogue(analysis, pruned, linear, kept)
    key, zeroed = linear.node, zeros.get(linear.node)
    layer = recurrence(pruned.node(key), key) if linear.recurrent else None
    return Job(linear, epilogue, recurrence=layer, zeros=zeroed)


def _must_move(job: Job, affected: Set[str], sums: Collection[str]) -> bool:
    """Whether a layer has zeros, receives something else than before, or is added to such."""
    known = [job.linear.x] if job.recurrence is None else [*job.recurrence.reads, job.linear.y]
    return bool(job.zeros) or not affected.isdisjoint(known) or job.epilogue.tensor in sums


def _is_too_wide(job: Job) -> bool:
    return job.zeros is not None and job.zeros.mask.shape[1] > WIDEST


def _constant(pruned: Model, join: Join, rank: int) -> Job:
    """Describe what is added in place of a branch as a layer whose input is the other addend."""
    key, place = join.edge
    out = pruned.node(key).outputs[0]
    spatial = (1,) * (rank - 2) if join.axis == 1 else ()
    linear = Linear(
        key, "Add", join.beside, out.name, join.axis, join.axis, "", None, 0, 0, kernel=spatial,
        strides=spatial, dilations=spatial, pads=(0,) * (2 * len(spatial)),
    )  # fmt: skip
    count = pruned.node(key).inputs[place].values.size
    low, high = clipping(only_reader(pruned, out))
    epilogue = Epilogue(np.ones(count), np.zeros(count), out.name, None, low, high)
    return Job(linear, epilogue, place)


def _epilogue(analysis: Analysis, pruned: Model, linear: Linear, kept: Kept) -> Epilogue:
    shapes = analysis.probe.shapes
    outputs = len(kept[linear.y][1]) if linear.y in kept else shapes[linear.y][linear.y_axis]
    epilogue = find_epilogue(pruned, linear, outputs)
    # Where sizes or channels differ (broadcasting, a tensor the original lacks), aim at y itself.
    same = shapes.get(epilogue.tensor) == shapes[linear.y]
    if not same or _differently_cut(epilogue.tensor, linear.y, kept):
        return own_output(epilogue, linear)
    return epilogue


def _differently_cut(a: str, b: str, kept: Kept) -> bool:
    if (a in kept) != (b in kept):
        return True
    return a in kept and (kept[a][0] != kept[b][0] or not np.array_equal(kept[a][1], kept[b][1]))
