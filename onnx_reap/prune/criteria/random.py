"""Chance, the baseline of all baselines."""

from __future__ import annotations

import zlib

import numpy as np

from onnx_reap.prune.criteria.observation import Order, Seen


def order(seen: Seen) -> Order:
    """Let units go at random; the same for the same seed and name of the group."""
    rng = np.random.default_rng((seen.seed, zlib.crc32(seen.name.encode())))
    return rng.permutation(seen.width)
