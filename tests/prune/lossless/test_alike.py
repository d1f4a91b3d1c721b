"""Equal channels."""

from __future__ import annotations

import numpy as np

from onnx_reap.prune.lossless.values import alike


def test_equal_rows():
    rows = np.random.default_rng(0).standard_normal((8, 20)).astype(np.float32)
    rows[3], rows[4], rows[6], rows[7] = rows[1], 0, -2 * rows[1], rows[1] * (1 + 1e-7)
    rows[5] = rows[1]
    rows[5, 0] += 1e-3
    kinds = np.zeros(8, np.int64)
    assert alike([kinds], [rows]).tolist() == [0, 1, 2, 1, 4, 5, 6, 1]


def test_rows_of_no_length_are_equal():
    assert alike([np.zeros(3, np.int64)], [np.zeros((3, 0))]).tolist() == [0, 0, 0]


def test_alike_positions():
    kinds = np.array([1, 1, 2, 1, 2, 1])
    numbers = np.array([0.5, 0.5, 0.5, 0.5000001, 0.7, 0.6])
    assert alike([kinds], [numbers]).tolist() == [0, 0, 2, 0, 4, 5]
    assert alike([kinds, kinds], []).tolist() == [0, 0, 2, 0, 2, 0]


def test_what_is_not_finite_equals_nothing():
    rows = np.array([[np.nan], [np.nan], [np.inf], [np.inf]])
    assert alike([np.zeros(4, np.int64)], [rows]).tolist() == [0, 1, 2, 3]
