"""The walk: layer by layer, fit the pruned model's outputs to the original's."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnx_reap.graph.edit.weights import layer_weights, set_layer, set_weight
from onnx_reap.measure.activations.rows import matrix_to_weight, not_finite, weight_to_matrix
from onnx_reap.onnxio.dtypes import cast
from onnx_reap.prune.refit.layer import Fitted, Rows, fit_constant, fit_layer
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.order import Job, Zeros, waves
from onnx_reap.prune.refit.sampling import Sampler
from onnx_reap.solve.checks import NotFiniteError
from onnx_reap.solve.chunks import in_chunks
from onnx_reap.solve.moments import moments_of

TARGET_BYTES = 256 << 20  # what layers are wanted to give, held at a time


@dataclass(frozen=True)
class LayerRefit:
    """Refit of one layer: relative output error before and after, on fitted samples."""

    node: str
    damping: float
    error_before: float
    error_after: float


def refit_model(
    pair: ModelPair, jobs: Sequence[Job], on_layer: Callable[[], None]
) -> tuple[dict[str, LayerRefit], list[str]]:
    """Refit layers of a cut model in place.

    Parameters
    ----------
    jobs : sequence of Job
        In topological order, with epilogues of the pruned model.

    Returns
    -------
    fitted : dict
        By node, how it was fitted.
    too_large : list of str
        Nodes left as they were since new numbers were too large for the type that they are stored
        in.
    """
    original, pruned = pair.original, pair.pruned
    fitted: dict[str, LayerRefit] = {}
    too_large = []
    sampler = Sampler(pair, jobs)
    # Branches that vanished run in the original alone, from tensors that the other may be past.
    place_before, place_after = pair.frontier(original), pair.frontier(pruned)
    with pair.stream() as before, pair.stream() as after:
        blocks = list(_stretches(waves(pruned, jobs), sampler))
        end: list[list[Job]] = [[]]
        for block, (following, *_) in pairwise([*blocks, end]):
            ahead = [job for wave in block for job in wave]
            tensors = list(dict.fromkeys(job.observed for job in ahead))
            run = before.run(
                original, tensors, place_before.move([job.linear.y for job in following])
            )
            targets = sampler.collect(run, ahead, sampler.target_rows)
            for wave in block:
                tensors = list(dict.fromkeys(name for job in wave for name in job.received))
                run = after.run(pruned, tensors, place_after.move([job.linear.y for job in wave]))
                inputs = sampler.collect(run, wave, sampler.input_rows)
                for job in wave:
                    node = job.linear.node
                    rows = sampler.join(node, inputs.pop(node), targets.pop(node))
                    try:
                        new, written = _fit(job, rows, pair)
                    except NotFiniteError:
                        raise not_finite(job.linear) from None
                    before_it = new.error_before
                    fitted[node] = (
                        LayerRefit(node, new.damping, before_it, new.error_after)
                        if written
                        else LayerRefit(node, math.inf, before_it, before_it)
                    )
                    too_large += [] if written else [node]
                    on_layer()
    return fitted, too_large


def _stretches(all_waves: Sequence[list[Job]], sampler: Sampler) -> Iterator[list[list[Job]]]:
    """Cut the walk into blocks whose targets fit in memory.

    The original never changes, so it is run once per block; the pruned model once per wave.
    """
    return in_chunks(
        all_waves, lambda wave: sum(sampler.target_bytes(job) for job in wave), TARGET_BYTES
    )


def _fit(job: Job, rows: Rows, pair: ModelPair) -> tuple[Fitted, bool]:
    """Fit a layer, or a constant; return also whether what was fitted could be written."""
    pruned = pair.pruned
    if job.place is not None:
        old = pruned.node(job.linear.node).inputs[job.place]
        before = old.values.astype(np.float64).reshape(1, -1)
        fitted = fit_constant(rows, before, job.epilogue)
        new = cast(fitted.bias.reshape(old.shape), old.dtype)
        finite = bool(np.isfinite(new).all())
        if finite:
            old.values = new
        return fitted, finite
    backend = pair.run.backend
    mask = None if job.zeros is None else _zeroed(job, job.zeros, rows, pair)
    stored, bias = layer_weights(pruned, job.linear)
    weight = weight_to_matrix(job.linear, stored)
    groups, _, outputs = weight.shape
    bias = np.broadcast_to(bias, groups * outputs).reshape(groups, outputs)
    fitted = fit_layer(rows, weight, bias, job.epilogue, backend, stored=stored.dtype, mask=mask)
    if fitted.weight is weight:
        return fitted, True
    new = matrix_to_weight(job.linear, fitted.weight, stored)
    return fitted, set_layer(pruned, job.linear, new, fitted.bias.ravel())


def _zeroed(job: Job, zeros: Zeros, rows: Rows, pair: ModelPair) -> np.ndarray:
    """Choose the weights that stay by what the layer receives now, and set the others to zero."""
    if zeros.choose is None:
        return zeros.mask
    to_device = pair.run.backend.to_device
    stored, _ = layer_weights(pair.original, job.linear)
    weight = weight_to_matrix(job.linear, stored)
    scaled = weight * job.epilogue.scale.reshape(len(weight), 1, -1)
    gram = moments_of(to_device(rows.x)).gram
    mask = zeros.choose(gram, to_device(scaled), zeros.mask)
    set_weight(pair.pruned, job.linear, matrix_to_weight(job.linear, weight * mask, stored))
    return mask
