"""Steps of matrices: all singular values are one, and what is correlated is no obstacle."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve.descent import Descent
from onnx_reap.solve.muon import SIZE, Muon, orthogonal


def matrices(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e17])
@pytest.mark.parametrize("shape", [(1, 4, 30), (3, 5, 5), (2, 40, 7), (1, 1, 6)])
def test_it_is_the_polar_factor(shape: tuple[int, ...], scale: float):
    x = matrices(*shape)
    u, _, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(orthogonal(x * np.float32(scale)), u @ v, atol=2e-4)


def test_directions_without_a_gradient_stay_without():
    x = matrices(1, 6, 2) @ matrices(1, 2, 20, seed=1)
    values = np.linalg.svd(orthogonal(x)[0], compute_uv=False)
    np.testing.assert_allclose(values[:2], 1, atol=1e-3)
    assert (values[2:] < 0.1).all()
    assert (orthogonal(np.zeros((2, 3, 4), np.float32)) == 0).all()


def test_matrices_of_one_weight_do_not_influence_each_other():
    x = matrices(6, 3, 2, 2)
    both = Muon(x.shape, 2).step(x)
    apart = [Muon(part.shape, 1).step(part) for part in (x[:3], 1000 * x[3:])]
    np.testing.assert_allclose(both, np.concatenate(apart), rtol=1e-4)


def test_a_step_goes_equally_far_in_all_directions_of_each_matrix():
    step = Muon((6, 5, 2, 2), 2).step(matrices(6, 5, 2, 2))
    values = np.linalg.svd(step.reshape(2, 3, 20), compute_uv=False)
    np.testing.assert_allclose(values, SIZE * 20**0.5, rtol=1e-3)


def test_entries_are_as_large_whatever_the_shape():
    for shape in ((16, 144), (64, 8)):
        step = Muon(shape, 1).step(matrices(*shape))
        assert np.sqrt(np.mean(step**2)) == pytest.approx(SIZE, rel=1e-3)


def left(steps: int, *, as_matrices: bool) -> float:
    """Fit a matrix to inputs of which few directions have most of the variance."""
    rng = np.random.default_rng(0)
    mixed = np.linalg.qr(rng.standard_normal((24, 24)))[0] * np.logspace(0, -1.5, 24)
    covariance = (mixed @ mixed.T).astype(np.float32)
    goal = matrices(12, 24, seed=3)
    counts = {"w": 1} if as_matrices else {}
    descent = Descent({"w": 0 * goal}, {"w": 1.0}, steps, 0.2, counts)
    for _ in range(steps):
        descent.step({"w": (descent.values["w"] - goal) @ covariance})
    away = descent.values["w"] - goal
    return float(np.trace(away @ covariance @ away.T) / np.trace(goal @ covariance @ goal.T))


def test_correlated_inputs_cost_fewer_steps():
    assert left(120, as_matrices=True) < 0.1 * left(120, as_matrices=False)
