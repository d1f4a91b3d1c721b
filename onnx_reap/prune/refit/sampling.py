"""Rows of layers from both streams, at the same samples and positions."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from onnx_reap.graph.ir.recurrent import hidden_axes
from onnx_reap.measure.activations.moments import positions_for
from onnx_reap.measure.activations.rows import (
    finite,
    input_rows,
    output_rows,
    output_shape,
    sample_positions,
)
from onnx_reap.measure.activations.steps import sampled_steps
from onnx_reap.measure.runner import own_samples
from onnx_reap.prune.refit.layer import Rows
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.order import Job, by_weight
from onnx_reap.prune.refit.recurrent import StepProblem, wanted_steps

ENTRIES = 2**24  # numbers in a layer's rows, past which fewer positions are taken

Tensors = Mapping[str, np.ndarray]


class Sampler:
    """Takes the same rows from the original's and the pruned model's activations."""

    def __init__(self, pair: ModelPair, jobs: Sequence[Job]) -> None:
        self._pair = pair
        self._number = {job.linear.node: i for i, job in enumerate(jobs)}
        self._fitting: dict[str, int] = {}  # Rows of a layer that are fitted, which come first
        # Layers that share a weight share the rows that one would have
        self._uses = {job.linear.node: len(team) for team in by_weight(jobs) for job in team}

    def collect(
        self,
        batches: Iterable[Tensors],
        jobs: Sequence[Job],
        rows: Callable[[Job, Tensors, np.random.Generator], list[np.ndarray]],
    ) -> dict[str, list[np.ndarray]]:
        """Sample rows for some layers from a stream's batches: (g, n, columns) float32 arrays."""
        pair, seen = self._pair, 0
        taken: dict[str, list[list[np.ndarray]]] = {job.linear.node: [] for job in jobs}
        for batch in batches:
            size = min(pair.batch, len(pair.calibration) - seen)
            own = batch
            if pair.pads:
                own = {name: own_samples(x, size, pair.batch) for name, x in batch.items()}
            for job in jobs:
                node, tensors = job.linear.node, batch if job.recurrence else own
                rng = np.random.default_rng((pair.run.settings.seed, seen, self._number[node]))
                taken[node].append(rows(job, tensors, rng))
            fitting = min(max(pair.fit_samples - seen, 0), size)
            for node, parts in taken.items():
                before = self._fitting[node] if seen else 0
                self._fitting[node] = before + parts[-1][0].shape[1] * fitting // size
            seen += size
        return {
            node: [np.concatenate(parts, axis=1) for parts in zip(*taken.pop(node), strict=True)]
            for node in list(taken)
        }

    def target_rows(self, job: Job, tensors: Tensors, rng: np.random.Generator) -> list[np.ndarray]:
        """Sample what stood behind a layer in the original, of the channels that are left."""
        linear, limit = job.linear, self._positions(job)
        if job.recurrence is not None:
            return wanted_steps(self._pair, linear, tensors, limit, rng)
        wanted = tensors[job.epilogue.tensor]
        at = sample_positions(linear, wanted.shape, limit, rng)
        _, channels = self._pair.kept.get(linear.y, (0, None))
        return [finite(linear, output_rows(linear, wanted, at, channels))]

    def input_rows(self, job: Job, tensors: Tensors, rng: np.random.Generator) -> list[np.ndarray]:
        """Sample what a layer receives in the pruned model, and what is added behind it."""
        linear, x = job.linear, tensors[job.linear.x]
        if job.recurrence is not None:
            steps = sampled_steps(job.recurrence, tensors, self._positions(job), rng)
            return [finite(linear, steps.x), steps.before, steps.after]
        y_shape = list(self._pair.probe.shapes[linear.y])
        y_shape[linear.y_axis] = self._outputs(job)
        shape = output_shape(linear, x.shape, tuple(y_shape))
        at = sample_positions(linear, shape, self._positions(job), rng)
        rows = [input_rows(linear, x, shape, at)]
        if job.epilogue.addend:
            rows.append(
                output_rows(linear, np.broadcast_to(tensors[job.epilogue.addend], shape), at)
            )
        return [finite(linear, r) for r in rows]

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
