"""The walk: layer by layer, fit the pruned model's outputs to the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..capture.moments import positions_for
from ..capture.rows import (
    input_rows,
    matrix_to_weight,
    output_rows,
    sample_positions,
    weight_to_matrix,
)
from ..data import Calibration
from ..graph.model import Model
from ..graph.probe import Probe
from ..graph.records import Linear
from ..solve.backend import Backend
from .frontier import Frontier
from .layer import Fitted, Rows, fit_layer
from .order import Job, waves
from .stream import Stream
from .write import current_bias, set_layer

HELD_OUT = 5  # every fifth sample chooses the damping


@dataclass(frozen=True)
class Walk:
    """What a walk needs besides the two models.

    Attributes
    ----------
    kept : mapping of str to (int, array)
        Axis and positions that stay, for tensors that were cut.
    probe : Probe
        Of the original.
    positions : int
        Output positions per sample at most.
    batch : int
        Samples per run; `pad` where the model insists on it.
    """

    kept: Mapping[str, tuple[int, np.ndarray]]
    probe: Probe
    calibration: Calibration
    backend: Backend
    providers: Sequence[str]
    positions: int
    batch: int
    pad: bool
    seed: int


def refit_model(
    original: onnx.ModelProto,
    pruned: Model,
    jobs: Sequence[Job],
    walk: Walk,
    on_layer: Callable[[str], None],
) -> dict[str, Fitted]:
    """Refit layers of a cut model in place.

    Parameters
    ----------
    original : onnx.ModelProto
        With constants folded as in `pruned`, so that tensors have the same names.
    pruned : Model
        Cut; its weights are replaced.
    jobs : sequence of Job
        In topological order, with tails of the pruned model.
    on_layer : callable
        Told each layer's node when it is done.

    Returns
    -------
    dict
        By node, what was fitted.
    """
    fitted: dict[str, Fitted] = {}
    samples = len(walk.calibration)
    frontier = Frontier(pruned, walk.probe, samples)
    with _stream(walk) as before, _stream(walk) as after:
        for wave in waves(pruned, jobs):
            move = frontier.move(wave)
            wanted = list(dict.fromkeys(job.tail.tensor for job in wave))
            old = before.run(original, wanted, move)
            new = after.run(pruned.to_proto(), _given(wave), move)
            for job, rows in _collect(wave, old, new, walk):
                fitted[job.linear.node] = _fit(job, rows, pruned, walk.backend)
                on_layer(job.linear.node)
    return fitted


def _stream(walk: Walk) -> Stream:
    return Stream(walk.calibration, walk.batch, walk.pad, walk.providers)


def _given(wave: Sequence[Job]) -> list[str]:
    """List what a wave's layers receive in the pruned model."""
    names = [job.linear.x for job in wave] + [job.tail.addend for job in wave if job.tail.addend]
    return list(dict.fromkeys(names))


def _collect(
    wave: Sequence[Job],
    before: Iterable[Mapping[str, np.ndarray]],
    after: Iterable[Mapping[str, np.ndarray]],
    walk: Walk,
) -> Iterator[tuple[Job, Rows]]:
    """Sample rows for a wave's layers from both streams.

    Every fifth sample judges; its rows come last.
    """
    learn, judge = ([[] for _ in wave] for _ in range(2))
    seen = 0
    for old, new in zip(before, after, strict=True):
        size = walk.batch if walk.pad else min(walk.batch, len(walk.calibration) - seen)
        judges = (seen + np.arange(size)) % HELD_OUT == HELD_OUT - 1
        for number, job in enumerate(wave):
            rng = np.random.default_rng((walk.seed, seen, number))
            rows = _rows(job, old, new, walk, rng)
            of_judges = judges[np.arange(rows[0].shape[1]) * size // rows[0].shape[1]]
            learn[number].append([r[:, ~of_judges] for r in rows])
            judge[number].append([r[:, of_judges] for r in rows])
        seen += size
    for number, job in enumerate(wave):
        fit = sum(parts[0].shape[1] for parts in learn[number])
        columns = zip(*learn[number], *judge[number], strict=True)
        x, wanted, *addend = (np.concatenate(parts, axis=1) for parts in columns)
        learn[number], judge[number] = [], []
        yield job, Rows(x, wanted, addend[0] if addend else None, fit)


def _rows(
    job: Job,
    old: Mapping[str, np.ndarray],
    new: Mapping[str, np.ndarray],
    walk: Walk,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Sample one batch: inputs now, what was wanted, and the addend now."""
    linear = job.linear
    wanted, x = old[job.tail.tensor], new[linear.x]
    if linear.y in walk.kept:
        wanted = np.take(wanted, walk.kept[linear.y][1], linear.y_axis)
    columns = x.shape[linear.x_axis] // linear.group * linear.taps
    limit = positions_for(columns, linear.group, len(walk.calibration), walk.positions)
    at = sample_positions(linear, wanted.shape, limit, rng)
    rows = [input_rows(linear, x, wanted.shape, at), output_rows(linear, wanted, at)]
    if job.tail.addend:
        addend = np.broadcast_to(new[job.tail.addend], wanted.shape)
        rows.append(output_rows(linear, addend, at))
    return [np.asarray(r, np.float32) for r in rows]


def _fit(job: Job, rows: Rows, pruned: Model, backend: Backend) -> Fitted:
    linear: Linear = job.linear
    constants = pruned.constants()
    weight = weight_to_matrix(linear, constants[linear.weight].values)
    bias = current_bias(pruned, linear, weight.shape[0] * weight.shape[2])
    fitted = fit_layer(rows, weight, bias.reshape(len(weight), -1), job.tail, backend)
    new = matrix_to_weight(linear, fitted.weight, constants[linear.weight].values)
    set_layer(pruned, linear, new, fitted.bias.ravel())
    return fitted
