"""The walk: layer by layer, fit the pruned model's outputs to the original's."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnx_reap.graph.edit.weights import layer_weights, set_layer, set_weight
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.activations.frontier import Frontier
from onnx_reap.measure.activations.rows import matrix_to_weight, weight_to_matrix
from onnx_reap.measure.activations.stream import ActivationStream
from onnx_reap.onnxio.dtypes import cast
from onnx_reap.prune.refit.layer import Fitted, Rows, fit_constant, fit_layer
from onnx_reap.prune.refit.order import Job, Zeros, waves
from onnx_reap.prune.refit.sampling import Sampler, Walk
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.chunks import in_chunks
from onnx_reap.solve.moments import moments_of

TARGET_BYTES = 256 << 20  # what layers are wanted to give, held at a time


@dataclass(frozen=True)
class Fit:
    """How a layer was fitted; errors relative to the variance of its target."""

    damping: float
    error_before: float
    error_after: float
    # Whether it was left as it was since new numbers were too large for the type that they are
    # stored in
    overflows: bool = False


def refit_model(
    original: Model,
    pruned: Model,
    jobs: Sequence[Job],
    walk: Walk,
    on_layer: Callable[[str], None],
) -> dict[str, Fit]:
    """Refit layers of a cut model in place.

    Parameters
    ----------
    original : Model
        With constants folded as in `pruned`, so that tensors have the same names.
    pruned : Model
        Cut; its weights are replaced.
    jobs : sequence of Job
        In topological order, with epilogues of the pruned model.

    Returns
    -------
    dict
        By node, how it was fitted.
    """
    fitted: dict[str, Fit] = {}
    sampler = Sampler(walk, jobs)
    samples = len(walk.calibration)
    # Branches that vanished run in the original alone, from tensors that the other may be past.
    place_before, place_after = (Frontier(m, walk.probe, samples) for m in (original, pruned))
    with _stream(walk) as before, _stream(walk) as after:
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
                run = after.run(
                    pruned, _given(wave), place_after.move([job.linear.y for job in wave])
                )
                inputs = sampler.collect(run, wave, sampler.input_rows)
                for job in wave:
                    node = job.linear.node
                    rows = sampler.join(inputs.pop(node), targets.pop(node))
                    fitted[node] = _fit(job, rows, original, pruned, walk.backend)
                    on_layer(node)
    return fitted


def _stream(walk: Walk) -> ActivationStream:
    return ActivationStream(walk.calibration, walk.batch, walk.pad, walk.providers)


def _stretches(all_waves: Sequence[list[Job]], sampler: Sampler) -> Iterator[list[list[Job]]]:
    """Cut the walk into blocks whose targets fit in memory.

    The original never changes, so it is run once per block; the pruned model once per wave.
    """
    return in_chunks(
        all_waves, lambda wave: sum(sampler.target_bytes(job) for job in wave), TARGET_BYTES
    )


def _given(wave: Sequence[Job]) -> list[str]:
    """List what a wave's layers receive in the pruned model."""
    names = [job.linear.x for job in wave] + [
        job.epilogue.addend for job in wave if job.epilogue.addend
    ]
    return list(dict.fromkeys(names))


def _fit(job: Job, rows: Rows, original: Model, pruned: Model, backend: Backend) -> Fit:
    if job.place is not None:
        old = pruned.node(job.linear.node).inputs[job.place]
        before = old.values.astype(np.float64).reshape(1, -1)
        fitted = fit_constant(rows, before, job.epilogue)
        new = cast(fitted.bias.reshape(old.shape), old.dtype)
        finite = bool(np.isfinite(new).all())
        if finite:
            old.values = new
        return _told(fitted, written=finite)
    mask = None if job.zeros is None else _zeroed(job, job.zeros, rows, original, pruned, backend)
    stored, bias = layer_weights(pruned, job.linear)
    weight = weight_to_matrix(job.linear, stored)
    groups, _, outputs = weight.shape
    bias = np.broadcast_to(bias, groups * outputs).reshape(groups, outputs)
    fitted = fit_layer(rows, weight, bias, job.epilogue, backend, stored=stored.dtype, mask=mask)
    if fitted.weight is weight:
        return _told(fitted, written=True)
    new = matrix_to_weight(job.linear, fitted.weight, stored)
    return _told(fitted, written=set_layer(pruned, job.linear, new, fitted.bias.ravel()))


def _zeroed(
    job: Job, zeros: Zeros, rows: Rows, original: Model, pruned: Model, backend: Backend
) -> np.ndarray:
    """Choose the weights that stay by what the layer receives now, and set the others to zero."""
    if zeros.choose is None:
        return zeros.mask
    stored, _ = layer_weights(original, job.linear)
    weight = weight_to_matrix(job.linear, stored)
    scaled = weight * job.epilogue.scale.reshape(len(weight), 1, -1)
    gram = moments_of(backend.to_device(rows.x)).gram
    mask = zeros.choose(gram, backend.to_device(scaled), zeros.mask)
    set_weight(pruned, job.linear, matrix_to_weight(job.linear, weight * mask, stored))
    return mask


def _told(fitted: Fitted, *, written: bool) -> Fit:
    """Leave out the weights, which may be large; unless they were written all is as before."""
    if not written:
        return Fit(math.inf, fitted.error_before, fitted.error_before, overflows=True)
    return Fit(fitted.damping, fitted.error_before, fitted.error_after)
