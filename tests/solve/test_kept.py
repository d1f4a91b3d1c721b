"""What stays makes up for what went: the same as removal, and as brute-force least squares."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve.kept import without


def problem(columns: int = 7, outputs: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, columns)) @ rng.standard_normal((columns, columns))
    return x.T @ x / 40, rng.standard_normal((columns, outputs))


def test_is_the_damped_least_squares_solution_on_what_stays():
    gram, weight = problem()
    removed = np.array([0, 1, 0, 0, 1, 0, 1], bool)
    damping = 0.05
    damped = gram + damping * np.diag(gram).mean() * np.eye(7)
    root = np.linalg.cholesky(damped).T  # |root (W' - W)|^2 is the damped error
    best = np.zeros_like(weight)
    best[~removed] = np.linalg.lstsq(root[:, ~removed], root @ weight, rcond=None)[0]
    np.testing.assert_allclose(without(gram, weight, removed, damping), best, atol=1e-10)


@pytest.mark.parametrize(("removed", "expected"), [(False, 1.0), (True, 0.0)])
def test_nothing_or_everything_goes(removed: bool, expected: float):
    gram, weight = problem()
    result = without(gram, weight, np.full(7, removed), 0.1)
    np.testing.assert_array_equal(result, expected * weight)


def test_runs_on_another_device():
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device("device1")
    gram, weight = problem()
    removed = np.arange(7) % 2 == 0
    on_device = (xp.asarray(a, device=device) for a in (gram, weight))
    result = without(*on_device, removed, 0.1)
    assert result.device == device
    host = np.from_dlpack(xp.asarray(result, device=xp.Device("CPU_DEVICE")))
    np.testing.assert_allclose(host, without(gram, weight, removed, 0.1), atol=1e-12)
