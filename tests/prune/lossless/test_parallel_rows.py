"""Multiples of rows."""

from __future__ import annotations

import numpy as np

from onnx_reap.prune.lossless.rows import parallel
from onnx_reap.prune.lossless.values import alike


def _rows(n: int, size: int, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, size)).astype(dtype)


def test_parallel_rows():
    rows = _rows(8, 20, np.float32)
    rows[3], rows[4], rows[6], rows[7] = rows[1], 0, -2 * rows[1], rows[1] * (1 + 1e-4)
    rows[7, 0] += 1e-3
    like, factor = parallel(rows)
    assert like.tolist() == [0, 1, 2, 1, -1, 5, 1, 7]
    assert factor.tolist() == [1, 1, 1, 1, 0, 1, -2, 1]


def test_parallel_rows_of_no_length():
    like, _ = parallel(np.zeros((3, 0)))
    assert like.tolist() == [-1, -1, -1]


def test_alike_positions():
    kinds = np.array([1, 1, 2, 1, 2, 1])
    numbers = np.array([0.5, 0.5, 0.5, 0.5000001, 0.7, 0.6])
    assert alike([kinds], [numbers]).tolist() == [0, 0, 2, 0, 4, 5]
