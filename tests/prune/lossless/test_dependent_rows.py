"""Multiples and combinations of rows."""

from __future__ import annotations

import numpy as np

from onnx_reap.prune.lossless.rows import combinations, parallel
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


def test_combinations_are_found_and_reproduce_the_rows():
    rows = _rows(12, 30)
    rows[4] = 2 * rows[0] - rows[7]
    rows[9] = rows[1] + rows[2] + rows[3]
    rows[11] = rows[5]
    found = combinations(rows @ rows.T)
    assert len(found) == 3
    for j, terms in found.items():
        assert not found.keys() & terms.keys()
        made = sum(term * rows[k] for k, term in terms.items())
        np.testing.assert_allclose(made, rows[j], atol=1e-7)  # products hold half of the digits
    assert found[11] == {5: 1.0}


def test_independent_rows_stay():
    rows = _rows(30, 30)
    assert combinations(rows @ rows.T) == {}
    rows[5] = rows[4] + 1e-4 * rows[5]
    assert combinations(rows @ rows.T) == {}


def test_sums_that_cancel_stay():
    """Rounding of what is added up would be a hundred times that of the row itself."""
    rows = _rows(3, 30)
    rows[0] *= 1e-3
    rows[1] = rows[2] + rows[0]
    found = combinations(rows @ rows.T)
    assert all(abs(term) < 30 for terms in found.values() for term in terms.values())


def test_alike_positions():
    kinds = np.array([1, 1, 2, 1, 2, 1])
    numbers = np.array([0.5, 0.5, 0.5, 0.5000001, 0.7, 0.6])
    assert alike([kinds], [numbers]).tolist() == [0, 0, 2, 0, 4, 5]
