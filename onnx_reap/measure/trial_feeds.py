"""Inputs on which two models are compared that must be the same function."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnx_reap.data.spec import is_float
from onnx_reap.onnxio.session import Feed
from onnx_reap.prune.context import Run as Work

SCALES = (1.0, 0.01, 100.0)
"""Factors on random samples: activations must see both sides of where they bend."""


def trial_feeds(work: Work) -> Iterator[Feed]:
    """Draw feeds at several scales; integers stay as they are."""
    size = work.analysis.fixed_batch or 2
    feed = next(iter(work.samples.every.batches(size, pad=True)))
    rng = np.random.default_rng(work.settings.seed)
    yield feed
    for scale in SCALES:
        yield {
            name: (scale * rng.standard_normal(x.shape)).astype(x.dtype) if is_float(x.dtype) else x
            for name, x in feed.items()
        }
