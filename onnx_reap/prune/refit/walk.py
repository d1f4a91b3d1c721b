"""The walk: layer by layer, fit the pruned model's outputs to the original's."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from onnx_reap.graph.edit.weights import bias_numbers, layer_weights, set_layers, set_weight
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.rows import matrix_to_weight, not_finite, weight_to_matrix
from onnx_reap.measure.activations.steps import Steps
from onnx_reap.measure.activations.stream import ActivationStream
from onnx_reap.onnxio.dtypes import cast
from onnx_reap.prune.refit.layer import Fitted, LayerRefit, Rows, Use, fit_constant, fit_layer
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.order import Job, Team, Zeros, waves
from onnx_reap.prune.refit.recurrent import refit_recurrent
from onnx_reap.prune.refit.sampling import Sampler
from onnx_reap.solve.checks import NotFiniteError
from onnx_reap.solve.chunks import in_chunks
from onnx_reap.solve.moments import moments_of

TARGET_BYTES = 256 << 20  # what layers are wanted to give, held at a time

Wave = Sequence[Team]


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
    walk = _Walk(pair, jobs, on_layer)
    walk.fit_all()
    return walk.fitted, walk.too_large


class _Walk:
    """From the inputs to the outputs, in both models side by side."""

    def __init__(self, pair: ModelPair, jobs: Sequence[Job], on_layer: Callable[[], None]) -> None:
        self._pair, self._on_layer = pair, on_layer
        self._sampler = Sampler(pair, jobs)
        self._stretches = list(_stretches(waves(pair.pruned, jobs), self._sampler))
        # Branches that vanished run in the original alone, from tensors the other may be past.
        self._before, self._after = pair.frontier(pair.original), pair.frontier(pair.pruned)
        self.fitted: dict[str, LayerRefit] = {}
        self.too_large: list[str] = []

    def fit_all(self) -> None:
        """Fit all layers."""
        with self._pair.stream() as before, self._pair.stream() as after:
            for number, stretch in enumerate(self._stretches):
                later = [wave for other in self._stretches[number + 1 :] for wave in other]
                targets = self._targets(before, stretch, later)
                for at, wave in enumerate(stretch):
                    inputs = self._inputs(after, wave, [*stretch[at:], *later])
                    for team in wave:
                        given = [inputs.pop(node) for node in _nodes(team)]
                        self._refit(team, given, [targets[node] for node in _nodes(team)], after)

    def _targets(
        self, stream: ActivationStream, stretch: Sequence[Wave], later: Sequence[Wave]
    ) -> dict[str, list[np.ndarray]]:
        """Sample what layers gave in the original; hold there what later ones need."""
        every = {job.linear.node: job for wave in stretch for team in wave for job in team}
        jobs = list(every.values())  # Once each, also those of a loop, which are fitted again
        tensors = list(dict.fromkeys(name for job in jobs for name in job.observed))
        run = stream.run(self._pair.original, tensors, self._before.move(_results(later)))
        return self._sampler.collect(run, jobs, self._sampler.target_rows)

    def _inputs(
        self, stream: ActivationStream, wave: Wave, left: Sequence[Wave]
    ) -> dict[str, list[np.ndarray]]:
        """Sample what layers of the cut model receive; hold there what all that are left need."""
        jobs = [job for team in wave for job in team]
        tensors = list(dict.fromkeys(name for job in jobs for name in job.sampled))
        run = stream.run(self._pair.pruned, tensors, self._after.move(_results(left)))
        return self._sampler.collect(run, jobs, self._sampler.input_rows)

    def _refit(
        self,
        team: Team,
        given: Sequence[Sequence[np.ndarray]],
        wanted: Sequence[Sequence[np.ndarray]],
        stream: ActivationStream,
    ) -> None:
        """Fit layers of one weight to what each of them receives, and to what is wanted of it."""
        job, sampler = team[0], self._sampler
        new: Fitted | LayerRefit
        try:
            if job.recurrence is None:
                rows = list(map(sampler.join, _nodes(team), given, wanted))
                new, written = _fit(team, rows, self._pair)
            else:
                problem = sampler.join_steps(job, wanted[0])
                again = partial(self._steps, job, stream)
                new, written = refit_recurrent(self._pair, problem, Steps(*given[0]), again)
        except NotFiniteError:
            raise not_finite(job.linear) from None
        first = self.fitted.get(job.linear.node)
        start = new.error_before if first is None else first.error_before
        result = new.error_after if written else new.error_before
        damping = new.damping if written else math.inf
        for node in _nodes(team):
            self.fitted[node] = LayerRefit(node, damping, start, result)
            self.too_large += [] if written else [node]
            self._on_layer()

    def _steps(self, job: Job, stream: ActivationStream) -> Steps:
        """Sample what a recurrent layer reads and gives now."""
        run = stream.run(self._pair.pruned, job.sampled)
        return Steps(*self._sampler.collect(run, [job], self._sampler.input_rows)[job.linear.node])


def _nodes(team: Team) -> list[str]:
    return [job.linear.node for job in team]


def _results(waves: Iterable[Iterable[Team]]) -> list[str]:
    """Return what layers give that are still to be fitted."""
    return [job.linear.y for wave in waves for team in wave for job in team]


def _stretches(all_waves: Sequence[list[Team]], sampler: Sampler) -> Iterator[list[list[Team]]]:
    """Cut the walk into blocks whose targets fit in memory.

    The original never changes, so it is run once per block; the pruned model once per wave.
    """

    def size(wave: list[Team]) -> int:
        return sum(sampler.target_bytes(job) for team in wave for job in team)

    return in_chunks(all_waves, size, TARGET_BYTES)


def _fit(team: Team, rows: Sequence[Rows], pair: ModelPair) -> tuple[Fitted, bool]:
    """Fit layers of one weight, or a constant; return also whether it could be written."""
    pruned, (job, *_) = pair.pruned, team
    if job.place is not None:
        old = pruned.node(job.linear.node).inputs[job.place]
        before = old.values.astype(np.float64).reshape(1, -1)
        fitted = fit_constant(rows[0], before, job.epilogue, on_all=pair.on_all)
        new = cast(fitted.biases[0].reshape(old.shape), old.dtype)
        finite = bool(np.isfinite(new).all())
        if finite:
            old.values = new
        return fitted, finite
    mask = None if job.zeros is None else _zeroed(job, job.zeros, rows[0], pair)
    layers = [each.linear for each in team]
    stored, _ = layer_weights(pruned, job.linear)
    weight = weight_to_matrix(job.linear, stored)
    numbers = bias_numbers(pruned, layers)
    uses = [
        Use(own, _bias(pruned, each.linear, weight), each.epilogue, number)
        for each, own, number in zip(team, rows, numbers, strict=True)
    ]
    fitted = fit_layer(
        uses, weight, pair.run.backend, stored=stored.dtype, mask=mask, on_all=pair.on_all
    )
    if fitted.weight is weight:
        return fitted, True
    new = matrix_to_weight(job.linear, fitted.weight, stored)
    biases = [fitted.biases[number].ravel() for number in numbers]
    return fitted, set_layers(pruned, layers, new, biases)


def _bias(pruned: Model, linear: Linear, weight: np.ndarray) -> np.ndarray:
    """Return a layer's bias, (g, O)."""
    groups, _, outputs = weight.shape
    _, bias = layer_weights(pruned, linear)
    return np.broadcast_to(bias, groups * outputs).reshape(groups, outputs)


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
