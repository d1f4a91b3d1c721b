"""The walk: layer by layer, fit the pruned model's outputs to the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

ROW_BYTES = 512 << 20  # input rows of a layer held at a time
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
            now = pruned.to_proto()
            if (move := frontier.move(wave)) is not None:
                before.advance(original, *move)
                after.advance(now, *move)
            for job, rows in _collect(wave, before, after, original, now, walk):
                fitted[job.linear.node] = _fit(job, rows, pruned, walk.backend)
                on_layer(job.linear.node)
    return fitted


def _stream(walk: Walk) -> Stream:
    return Stream(walk.calibration, walk.batch, walk.pad, walk.providers)


def _collect(
    wave: Sequence[Job],
    before: Stream,
    after: Stream,
    original: onnx.ModelProto,
    pruned: onnx.ModelProto,
    walk: Walk,
) -> Iterable[tuple[Job, Rows]]:
    """Run both streams up to a wave's layers and sample rows."""
    wanted = list(dict.fromkeys(job.tail.tensor for job in wave))
    given = [job.linear.x for job in wave] + [job.tail.addend for job in wave if job.tail.addend]
    given = list(dict.fromkeys(given))
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in wave]
    seen = 0
    for old, new in zip(before.run(original, wanted), after.run(pruned, given), strict=True):
        for number, job in enumerate(wave):
            rng = np.random.default_rng((walk.seed, seen, number))
            parts[number].append(_rows(job, old, new, walk, rng))
        seen += walk.batch if walk.pad else min(walk.batch, len(walk.calibration) - seen)
    for job, batches in zip(wave, parts, strict=True):
        columns = list(zip(*batches, strict=True))
        x, target = (np.concatenate(c, axis=1) for c in columns[:2])
        addend = np.concatenate(columns[2], axis=1) if job.tail.addend else None
        per_sample = max(x.shape[1] // max(seen, 1), 1)
        held_out = np.arange(x.shape[1]) // per_sample % HELD_OUT == HELD_OUT - 1
        yield job, Rows(x, target, addend, held_out)


def _rows(
    job: Job,
    old: Mapping[str, np.ndarray],
    new: Mapping[str, np.ndarray],
    walk: Walk,
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Sample one batch: inputs now, what was wanted, and the addend now."""
    linear = job.linear
    wanted, x = old[job.tail.tensor], new[linear.x]
    if linear.y in walk.kept:
        wanted = np.take(wanted, walk.kept[linear.y][1], linear.y_axis)
    columns = x.shape[linear.x_axis] // linear.group * linear.taps
    limit = _row_limit(columns * linear.group, columns, len(walk.calibration), walk.positions)
    at = sample_positions(linear, wanted.shape, limit, rng)
    rows = [input_rows(linear, x, wanted.shape, at), output_rows(linear, wanted, at)]
    if job.tail.addend:
        addend = np.broadcast_to(new[job.tail.addend], wanted.shape)
        rows.append(output_rows(linear, addend, at))
    return tuple(np.ascontiguousarray(r, np.float32) for r in rows)


def _row_limit(entries: int, columns: int, samples: int, positions: int) -> int:
    """Positions per sample so that a layer's rows fit in memory and its fit in time."""
    fits = ROW_BYTES // (4 * entries * max(samples, 1))
    return int(np.clip(fits, 1, positions_for(columns, samples, positions)))


def _fit(job: Job, rows: Rows, pruned: Model, backend: Backend) -> Fitted:
    linear: Linear = job.linear
    constants = pruned.constants()
    weight = weight_to_matrix(linear, constants[linear.weight].values)
    bias = current_bias(pruned, linear, weight.shape[0] * weight.shape[2])
    fitted = fit_layer(rows, weight, bias.reshape(len(weight), -1), job.tail, backend)
    new = matrix_to_weight(linear, fitted.weight, constants[linear.weight].values)
    set_layer(pruned, linear, new, fitted.bias.ravel())
    return fitted
