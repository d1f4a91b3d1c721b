"""Rows of layers from both streams, at the same samples and positions."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_reap.graph.ir.recurrent import hidden_axes
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import positions_for
from onnx_reap.measure.activations.rows import (
    finite,
    input_rows,
    output_rows,
    output_shape,
    sample_positions,
)
from onnx_reap.measure.activations.steps import sampled_steps
from onnx_reap.measure.samples import in_front_of_samples
from onnx_reap.prune.refit.layer import Rows
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.order import Job, by_weight
from onnx_reap.prune.refit.recurrent import StepProblem, wanted_steps

ENTRIES = 2**24  # numbers in a layer's rows, past which fewer positions are taken

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Sampled:
    """Rows of a layer from one batch."""

    rows: list[np.ndarray]  # (g, n, columns), of the same positions
    places: np.ndarray  # (n,): where these are, in front of the axes of channels and of space
    total: int  # Places that there are


class Sampler:
    """Takes the same rows from the original's and the pruned model's activations."""

    def __init__(self, pair: ModelPair, jobs: Sequence[Job]) -> None:
        self._pair = pair
        self._number = {job.linear.node: i for i, job in enumerate(jobs)}
        self._layers = [job.linear for job in jobs]
        self._fitting: dict[str, int] = {}  # Rows of a layer that are fitted, which come first
        # Layers that share a weight share the rows that one would have
        self._uses = {job.linear.node: len(team) for team in by_weight(jobs) for job in team}

    def collect(
        self,
        batches: Iterable[Tensors],
        jobs: Sequence[Job],
        rows: Callable[[Job, Tensors, np.random.Generator], Sampled],
    ) -> dict[str, list[np.ndarray]]:
        """Sample rows for some layers from a stream's batches: (g, n, columns) float32 arrays.

        Those of samples that are fitted come first, and none are of samples that pad a batch.
        """
        pair, seen = self._pair, 0
        taken: dict[str, list[list[np.ndarray]]] = {job.linear.node: [] for job in jobs}
        self._fitting |= dict.fromkeys(taken, 0)
        for batch in batches:
            own = min(pair.batch, len(pair.calibration) - seen)
            fitting = min(max(pair.fit_samples - seen, 0), own)
            for job in jobs:
                node = job.linear.node
                rng = np.random.default_rng((pair.run.settings.seed, seen, self._number[node]))
                found = rows(job, batch, rng)
                order, fitted = self._division(job.linear, found, own, fitting)
                taken[node].append([x[:, order] for x in found.rows])
                self._fitting[node] += fitted
            seen += own
        return {
            node: [np.concatenate(parts, axis=1) for parts in zip(*taken.pop(node), strict=True)]
            for node in list(taken)
        }

    def _division(
        self, linear: Linear, found: Sampled, own: int, fitting: int
    ) -> tuple[np.ndarray | slice, int]:
        """Put rows of the first `fitting` samples first, of those that are a batch's own.

        Return their order, and how many are of samples that are fitted.
        """
        samples = self._pair.batch if self._pair.pads else own
        if own == samples and fitting in (0, own):
            return slice(None), len(found.places) if fitting else 0
        # Where samples aren't told apart, they are taken to lie where they mostly do.
        steps = self._pair.probe.shapes[linear.y][0] if linear.recurrent else 1
        front = self._in_front.get(linear.y, steps)
        sample = found.places * (front * samples) // found.total % samples
        order = np.argsort(sample >= fitting, kind="stable")
        order = order[sample[order] < own]
        # Most layers have them in order: a slice leaves them, and their layout, as they are.
        whole = np.array_equal(order, np.arange(len(order)))
        return slice(len(order)) if whole else order, int((sample < fitting).sum())

    @cached_property
    def _in_front(self) -> dict[str, int]:
        return in_front_of_samples(self._pair.run.analysis, self._layers)

    def target_rows(self, job: Job, tensors: Tensors, rng: np.random.Generator) -> Sampled:
        """Sample what stood behind a layer in the original, of the channels that are left."""
        linear, limit = job.linear, self._positions(job)
        if job.recurrence is not None:
            steps, places = wanted_steps(self._pair, linear, tensors, limit, rng)
            return Sampled(steps, places, math.prod(tensors[job.recurrence.x].shape[:2]))
        wanted = tensors[job.epilogue.tensor]
        at = sample_positions(linear, wanted.shape, limit, rng)
        _, channels = self._pair.kept.get(linear.y, (0, None))
        return _sampled(linear, [output_rows(linear, wanted, at, channels)], at, wanted.shape)

    def input_rows(self, job: Job, tensors: Tensors, rng: np.random.Generator) -> Sampled:
        """Sample what a layer receives in the pruned model, and what is added behind it."""
        linear, x = job.linear, tensors[job.linear.x]
        if job.recurrence is not None:
            steps, places = sampled_steps(job.recurrence, tensors, self._positions(job), rng)
            rows = [finite(linear, steps.x), steps.before, steps.after]
            return Sampled(rows, places, math.prod(x.shape[:2]))
        y_shape = list(self._pair.probe.shapes[linear.y])
        y_shape[linear.y_axis] = self._outputs(job)
        shape = output_shape(linear, x.shape, tuple(y_shape))
        at = sample_positions(linear, shape, self._positions(job), rng)
        rows = [input_rows(linear, x, shape, at)]
        if job.epilogue.addend:
            rows.append(
                output_rows(linear, np.broadcast_to(tensors[job.epilogue.addend], shape), at)
            )
        return _sampled(linear, rows, at, shape)

    def target_bytes(self, job: Job) -> int:
        """Bytes that a layer's targets take, at most."""
        shape = self._pair.probe.shapes[job.linear.y]
        spots = int(np.prod(shape)) // shape[job.linear.y_axis] // self._pair.probe.batch
        rows = min(spots, self._positions(job)) * len(self._pair.calibration)
        return rows * (self._outputs(job) + 2 * self._states(job)) * 4

    def join(self, node: str, given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> Rows:
        """Put both sides of one layer together."""
        x, *addend = given
        return Rows(x, wanted[0], addend[0] if addend else None, self._fitting[node])

    def join_steps(self, job: Job, wanted: Sequence[np.ndarray]) -> StepProblem:
        """Put what is wanted of a recurrent layer together."""
        assert job.recurrence is not None
        before, after, *outputs = wanted
        fit = self._fitting[job.linear.node]
        return StepProblem(job.linear, job.recurrence.maps, before, after, outputs, fit)

    def _outputs(self, job: Job) -> int:
        return self._length(job.linear.y, job.linear.y_axis)

    def _states(self, job: Job) -> int:
        """Return how many states are held for a step; 0 where a layer has none."""
        if job.recurrence is None:
            return 0
        axis, *_ = hidden_axes(job.linear.node)
        return self._length(axis, 0) * len(job.recurrence.backwards)

    def _length(self, tensor: str, axis: int) -> int:
        kept = self._pair.kept.get(tensor)
        return self._pair.probe.shapes[tensor][axis] if kept is None else len(kept[1])

    def _positions(self, job: Job) -> int:
        linear = job.linear
        inputs = self._length(linear.x, linear.x_axis) * linear.taps + self._states(job)
        samples = len(self._pair.calibration) * self._uses[linear.node]
        limit = self._pair.run.settings.positions
        columns, per_row = inputs // linear.group, inputs + self._outputs(job)
        return positions_for(columns, per_row, samples, limit, ENTRIES)


def _sampled(
    linear: Linear, rows: Sequence[np.ndarray], at: np.ndarray, shape: Sequence[int]
) -> Sampled:
    """Take rows at (N, P) positions of an output."""
    places, total = at[0], math.prod(shape[: linear.y_axis])
    if linear.kernel:
        places, total = np.repeat(np.arange(len(at)), at.shape[1]), shape[0]
    return Sampled([finite(linear, x) for x in rows], places, total)
