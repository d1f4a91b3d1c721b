"""The feeds that tell what depends on data and sizes."""

from collections.abc import Iterator, Sequence

from onnx_reap.graph.batches import Probed
from onnx_reap.onnxio.session import Feed

BATCH = 32
"""Samples that are run at once."""

FEW = (1, 2, 3)
"""Batch sizes that tell what follows from sizes."""


def few_and_all(probed: Probed) -> tuple[Sequence[Feed], Iterator[Feed]]:
    """Return a few batches of different size, and all samples."""
    _, fixed_batch, samples = probed
    batches = FEW if fixed_batch is None else (fixed_batch,)
    few = [next(iter(samples.batches(size, pad=True))) for size in batches]
    every = samples.batches(fixed_batch or BATCH, pad=fixed_batch is not None)
    return samples.extremes() if samples.alone else few, every
