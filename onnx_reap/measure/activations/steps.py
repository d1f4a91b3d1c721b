"""Steps of recurrent layers as rows: what every step reads, and the state that it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.ir.recurrent import Recurrence
from onnx_reap.measure.activations.rows import Rows, evenly_spaced


@dataclass(frozen=True)
class Steps:
    """Steps of a batch, those of a sample one after the other."""

    x: Rows  # (1, n, I)
    # (D, n, H): the state that each direction reads, and the one that it makes of it
    before: Rows
    after: Rows


def sampled_steps(
    layer: Recurrence, tensors: Mapping[str, np.ndarray], limit: int, rng: np.random.Generator
) -> tuple[Steps, np.ndarray]:
    """Choose steps of a batch, at most `limit` by sample on average; none is past a sample's end.

    The place of each in the (steps, samples) of the batch, (n,), comes second.

    Parameters
    ----------
    tensors : mapping of str to array
        What the layer reads, and its states.
    """

    def value(given: str | np.ndarray | None, default: np.ndarray) -> np.ndarray:
        found = tensors[given] if isinstance(given, str) else given
        return default if found is None else found

    x, after = tensors[layer.x], tensors[layer.states]
    count, directions, samples, hidden = after.shape
    lengths = value(layer.lengths, np.full(samples, count))
    first = value(layer.initial, np.zeros((directions, samples, hidden), after.dtype))
    before = np.stack(
        [
            _before(after[:, d], lengths, first[d], backwards=backwards)
            for d, backwards in enumerate(layer.backwards)
        ]
    )
    sample, step = np.nonzero(np.arange(count) < lengths[:, None])
    at = evenly_spaced(1, len(step), limit * samples, rng)[0]
    step, sample = step[at], sample[at]
    after = np.moveaxis(after, 1, 0)
    taken = Steps(x[step, sample][None], before[:, step, sample], after[:, step, sample])
    return taken, step * samples + sample


def _before(
    after: np.ndarray, lengths: np.ndarray, first: np.ndarray, *, backwards: bool
) -> np.ndarray:
    """Return the state in front of every step of one direction, (steps, samples, hidden)."""
    if not backwards:
        return np.concatenate([first[None], after[:-1]])
    before = np.concatenate([after[1:], first[None]])
    before[lengths - 1, np.arange(len(lengths))] = first
    return before
