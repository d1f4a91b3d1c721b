"""Least squares within a mask."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve.backend import to_host
from onnx_reap.solve.masked import masked_ridge
from onnx_reap.solve.moments import Moments
from onnx_reap.solve.ridge import residual, ridge


def problem(seed: int = 0, n: int = 60, D: int = 8, outputs: int = 6, lead: tuple[int, ...] = ()):
    """Inputs, targets, a current weight that is off, and a mask, half of it zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (*lead, n, D)) @ rng.normal(size=(D, D))
    weight = rng.normal(size=(*lead, D, outputs))
    y = x @ weight + 3 + 0.1 * rng.normal(size=(*lead, n, outputs))
    return x, y, weight + 0.2 * rng.normal(size=weight.shape), rng.random(weight.shape) < 0.5


def moments_of(x, y) -> Moments:
    moments = Moments()
    moments.update(x, y)
    return moments


def by_output(x, y, weight, mask, damping):
    """The same by NumPy's least squares, one output after the other."""
    n = len(x)
    xc, yc = x - x.mean(0), y - y.mean(0)
    strength = np.sqrt(n * damping * np.mean(xc**2))
    found = np.zeros_like(weight)
    for o in range(y.shape[1]):
        kept = np.flatnonzero(mask[:, o])
        a = np.concatenate([xc[:, kept], strength * np.eye(len(kept))])
        b = np.concatenate([yc[:, o], strength * weight[kept, o]])
        found[kept, o] = np.linalg.lstsq(a, b, rcond=None)[0]
    return found, y.mean(0) - x.mean(0) @ found


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 1.0])
def test_equals_least_squares_output_by_output(damping, put):
    x, y, weight, mask = problem()
    mask[:, 1] = mask[:, 4]  # two outputs share a system,
    mask[:, 2] = False  # and one keeps nothing
    found = masked_ridge(moments_of(put(x), put(y)), put(weight), damping, mask)
    for part, truth in zip(found, by_output(x, y, weight, mask, damping), strict=True):
        np.testing.assert_allclose(to_host(part), truth, rtol=1e-6, atol=1e-8)
    assert (to_host(found[0])[~mask] == 0).all()


def test_each_leading_index_is_a_problem_of_its_own(put):
    x, y, weight, mask = problem(lead=(3,))
    new, bias = masked_ridge(moments_of(put(x), put(y)), put(weight), 1e-3, mask)
    for i in range(3):
        alone, offset = by_output(x[i], y[i], weight[i], mask[i], 1e-3)
        np.testing.assert_allclose(to_host(new)[i], alone, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(to_host(bias)[i], offset, rtol=1e-6, atol=1e-8)


def test_with_nothing_masked_it_is_ridge(put):
    x, y, weight, mask = problem()
    moments = moments_of(put(x), put(y))
    found = masked_ridge(moments, put(weight), 1e-2, np.ones_like(mask))
    for part, truth in zip(found, ridge(moments, put(weight), 1e-2), strict=True):
        np.testing.assert_allclose(to_host(part), to_host(truth), rtol=1e-9, atol=1e-12)


def test_infinite_damping_keeps_what_the_mask_leaves(put):
    x, y, weight, mask = problem()
    new, _ = masked_ridge(moments_of(put(x), put(y)), put(weight), float("inf"), mask)
    np.testing.assert_array_equal(to_host(new), weight * mask)


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_the_mask_alone(seed, put):
    x, y, weight, mask = problem(seed)
    moments = moments_of(put(x), put(y))
    masked = residual(moments, put(weight * mask))
    for damping in (1e-6, 1e-2, 1.0, 100.0):
        assert residual(moments, masked_ridge(moments, put(weight), damping, mask)[0]) <= masked


def test_lots_give_the_same(monkeypatch, put):
    x, y, weight, mask = problem(outputs=20)
    moments = moments_of(put(x), put(y))
    whole = masked_ridge(moments, put(weight), 1e-2, mask)[0]
    monkeypatch.setattr("onnx_reap.solve.masked.LOT_NUMBERS", 1)
    alone = masked_ridge(moments, put(weight), 1e-2, mask)[0]
    np.testing.assert_allclose(to_host(whole), to_host(alone), rtol=1e-10)
