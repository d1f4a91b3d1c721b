"""Groups as a criterion sees them, with the rows that their moments are of."""

from __future__ import annotations

import numpy as np

from onnx_reap.prune.criteria.observation import Observation, Reading


def group(
    units: int = 7,
    taps: int = 2,
    parts: int | None = None,
    outputs: tuple[int, ...] = (5, 3),
    seed: int = 0,
) -> tuple[Observation, list[tuple[np.ndarray, Reading]]]:
    """Return a group with one reader for every entry of `outputs`, and the rows of each reader.

    With parts each part has readers of its own. Every reader has a frozen column in front.
    """
    rng = np.random.default_rng(seed)
    part = np.arange(units) * (parts or 1) // units
    mixing = rng.standard_normal((units * taps, units * taps))
    known = []
    for p in range(parts or 1):
        own = np.flatnonzero(part == p)
        for width in outputs:
            columns = np.full((units, taps), -1)
            columns[own] = 1 + rng.permutation(len(own) * taps).reshape(len(own), taps)
            x = rng.standard_normal((60, 1 + len(own) * taps))
            x[:, 1:] = np.maximum(x[:, 1:] @ mixing[: len(own) * taps, : len(own) * taps], -0.5)
            weight = rng.standard_normal((1 + len(own) * taps, width))
            mean = x.mean(0)
            gram = (x - mean).T @ (x - mean) / len(x)
            known.append((x, Reading(weight, columns, gram, mean)))
    filters = rng.standard_normal((units, 6)) * rng.uniform(0.5, 2, (units, 1))
    labels = None if parts is None else part
    readers = tuple(reader for _, reader in known)
    features = rng.standard_normal((30, units)) * rng.uniform(0.5, 2, units)
    responses = features @ rng.standard_normal((units, 4)) + rng.standard_normal((30, 4))
    return Observation("g", filters, readers, labels, seed, features, responses), known


def added(x: np.ndarray, reader: Reading, unit: int) -> np.ndarray:
    """Return what a unit adds to a reader's outputs, (n, O)."""
    columns = [c for c in reader.columns[unit] if c >= 0]
    return x[:, columns] @ reader.weight[columns]
