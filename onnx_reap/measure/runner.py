"""Run models on samples, batch by batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.measure.ahead import one_ahead
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, run, session

BATCH_BYTES = 128 << 20
"""Bytes of activations that one batch may return; two batches are held at a time."""

LARGEST_BATCH = 64
"""Samples in a batch, where the model leaves the choice."""

Outputs = dict[str, Any]


def batch_size(
    probe: Probe, tensors: Sequence[str], fixed: int | None, limit: int = BATCH_BYTES
) -> int:
    """Choose the number of samples per run: the named tensors take `limit` bytes at most."""
    if fixed is not None:
        return fixed
    shapes = [probe.shapes[name] for name in tensors if name in probe.shapes]
    each = sum(np.prod(shape) * 4 / probe.batch for shape in shapes)
    return int(np.clip(limit // max(each, 1), 1, LARGEST_BATCH))


def run_batches(
    analysis: Analysis,
    models: Sequence[LightModel],
    samples: Calibration,
    *,
    outputs: Sequence[str] | None = None,
    batch: int | None = None,
    count_input: str | None = None,
    in_front: Mapping[str, int] = MappingProxyType({}),
    on_batch: Callable[[int], object] | None = None,
) -> Iterator[tuple[int, list[Outputs]]]:
    """Run models of the same inputs side by side on all samples.

    Parameters
    ----------
    analysis : Analysis
        Of the original model: its batch size and providers are used.
    outputs : sequence of str, optional
        Tensors to return instead of the models' own outputs.
    count_input : str, optional
        Input of the models that is fed the number of samples in a run, shape (1,), int64.
    in_front : mapping of str to int
        What lies in front of the samples in tensors where it isn't 1, see `samples`.

    Yields
    ------
    count : int
        Samples of this batch, without those that pad the last one.
    results : list of dict of str to array
        By model, its outputs without what padding made.
    """
    padded = analysis.fixed_batch is not None
    names = [t.name for t in analysis.model.graph.outputs] if outputs is None else outputs
    size = batch or batch_size(analysis.probe, names, analysis.fixed_batch)
    sessions = [session(model, analysis.providers, outputs=outputs) for model in models]

    def results() -> Iterator[tuple[int, list[Outputs]]]:
        left = len(samples)
        for feed in samples.batches(size, pad=padded):
            count = min(left, size)
            if count_input is not None:
                feed = {**feed, count_input: np.array([size if padded else count])}
            found = [run(active, None, feed) for active in sessions]
            if padded:
                found = [
                    {n: own_samples(x, count, size, in_front.get(n, 1)) for n, x in each.items()}
                    for each in found
                ]
            yield count, found
            left -= count

    for count, found in one_ahead(results()):
        yield count, found
        if on_batch is not None:
            on_batch(count)


def own_samples(x: Any, count: int, batch: int, front: int = 1) -> Any:
    """Leave out what pads the last batch of a model with a fixed batch size.

    Parameters
    ----------
    front : int
        What lies in front of the samples, in the product of the leading axes.
    """
    if count == batch or not isinstance(x, np.ndarray):
        return x
    axis, before = 0, 1
    while axis < x.ndim and before * x.shape[axis] <= front and before < front:
        before *= x.shape[axis]
        axis += 1
    part = front // before  # of the axis that the samples share with it
    if axis == x.ndim or front % before or x.shape[axis] % (part * batch):
        return x
    head, tail = x.shape[:axis], x.shape[axis + 1 :]
    apart = x.reshape(*head, part, batch, -1)
    return apart[..., :count, :].reshape(*head, x.shape[axis] // batch * count, *tail)


def first_feed(analysis: Analysis, samples: Calibration) -> Feed:
    """Return a feed of the first sample, or of one batch where the batch size is fixed."""
    return next(iter(samples.batches(analysis.fixed_batch or 1, pad=True)))
