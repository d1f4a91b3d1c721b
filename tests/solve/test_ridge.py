from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import to_host
from onnx_reap.solve.moments import Moments
from onnx_reap.solve.ridge import (
    residual,
    ridge,
    ridge_rows,
    weakest_that_helps,
)

STRENGTHS = [1e-6, 1e-2, 1.0]


def rows(seed: int, n: int = 40, lead: tuple[int, ...] = (), D: int = 5, noise: float = 0.1):
    """Inputs, targets and a current weight that is off."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 1, (*lead, n, D)) * rng.uniform(0.1, 3, D)
    true = rng.normal(size=(*lead, D, 3))
    y = x @ true + 7 + noise * rng.normal(size=(*lead, n, 3))
    return x, y, true + 0.3 * rng.normal(size=true.shape)


def moments_of(x, y) -> Moments:
    moments = Moments()
    moments.update(x, y)
    return moments


def squared_error(x, y, weight, bias) -> float:
    """Mean over the rows, sum over the rest, from the rows."""
    return float(np.sum(np.mean((y - x @ weight - bias[..., None, :]) ** 2, axis=-2)))


def augmented(x, y, weight, damping):
    """The same problem as ordinary least squares: rows for the data, rows for the damping."""
    n, D = x.shape
    xc, yc = x - x.mean(0), y - y.mean(0)
    strength = np.sqrt(n * damping * np.mean(xc**2)) * np.eye(D)
    a, b = np.concatenate([xc, strength]), np.concatenate([yc, strength @ weight])
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    return found, y.mean(0) - x.mean(0) @ found


@pytest.mark.parametrize("damping", STRENGTHS)
@pytest.mark.parametrize("n", [40, 3])
def test_equals_least_squares_on_the_augmented_system(n, damping, put):
    x, y, weight = rows(0, n)
    found = ridge(moments_of(put(x), put(y)), put(weight), damping)
    # The normal equations square the condition number, so eps / damping of the digits are left.
    for part, truth in zip(found, augmented(x, y, weight, damping), strict=True):
        np.testing.assert_allclose(to_host(part), truth, rtol=1e-7, atol=1e-8)
    doubled = augmented(x, y, 2 * weight, damping)[0]
    if n < x.shape[1] or damping > 1e-3:
        assert not np.allclose(to_host(found[0]), doubled, rtol=1e-3)  # the oracle can tell


@pytest.mark.parametrize("damping", [*STRENGTHS, math.inf])
@pytest.mark.parametrize(("n", "lead"), [(4, ()), (40, ()), (4, (2, 3))])
def test_dual_equals_primal(n, lead, damping, put):
    x, y, weight = (put(a) for a in rows(1, n, lead))
    primal, dual = ridge(moments_of(x, y), weight, damping), ridge_rows(x, y, weight, damping)
    for one, other in zip(primal, dual, strict=True):
        np.testing.assert_allclose(to_host(one), to_host(other), rtol=1e-7, atol=1e-8)


def test_leading_axes_are_problems_of_their_own(put):
    x, y, weight = rows(2, lead=(2, 3))
    x *= np.array([1.0, 10, 100])[:, None, None]  # each has its own scale of damping
    found, bias = map(to_host, ridge(moments_of(put(x), put(y)), put(weight), 1e-2))
    for i in np.ndindex(2, 3):
        alone, its_bias = ridge(moments_of(x[i], y[i]), weight[i], 1e-2)
        np.testing.assert_allclose(found[i], alone, rtol=1e-9)
        np.testing.assert_allclose(bias[i], its_bias, rtol=1e-9)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.floats(1e-8, 1e8),
    st.floats(1e-6, 1e6),
)
def test_never_raises_the_error_on_its_own_samples(seed, n, damping, scale):
    x, y, weight = rows(seed, n)
    moments = moments_of(x * scale, y)
    before = residual(moments, weight)
    after = residual(moments, *ridge(moments, weight, damping))
    assert after <= before + 1e-12 * (before + float(np.sum(moments.var_y)))  # rounding


def test_infinite_damping_keeps_the_weight_and_centres_the_bias(put):
    x, y, weight = rows(3)
    found, bias = map(to_host, ridge(moments_of(put(x), put(y)), put(weight), math.inf))
    np.testing.assert_array_equal(found, weight)
    np.testing.assert_allclose(bias, (y - x @ weight).mean(0), rtol=1e-12)


def test_dead_inputs_keep_their_weight(put):
    x, y, weight = rows(4)
    x[:, 1] = 5.0
    found, _ = ridge(moments_of(put(x), put(y)), put(weight), 1e-3)
    np.testing.assert_allclose(to_host(found)[1], weight[1], rtol=1e-12)
    found, bias = ridge(moments_of(put(0 * x), put(y)), put(weight), 1e-3)
    np.testing.assert_allclose(to_host(found), weight, rtol=1e-12)
    np.testing.assert_allclose(to_host(bias), y.mean(0), rtol=1e-12)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_residual_equals_the_error_over_the_rows(lead, put):
    x, y, weight = rows(5, lead=lead)
    moments = moments_of(put(x), put(y))
    best = (y - x @ weight).mean(-2)
    for bias in (best, best + 1):
        truth = squared_error(x, y, weight, bias)
        np.testing.assert_allclose(residual(moments, put(weight), put(bias)), truth, rtol=1e-10)
    assert residual(moments, put(weight)) == pytest.approx(squared_error(x, y, weight, best))
    assert residual(moments, put(2 * weight)) != pytest.approx(
        squared_error(x, y, weight, best), rel=1e-2
    )


def test_a_perfect_fit_has_no_negative_error():
    x, y, weight = rows(6, noise=0)
    moments = moments_of(x, 1e6 * y)
    assert residual(moments, *ridge(moments, weight, 1e-9)) >= 0


def best_damping(fit, held_out, weight, dampings):
    return weakest_that_helps(dampings, lambda d: residual(held_out, *ridge(fit, weight, d)))


@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_damping_chosen_is_the_strength_that_does_best_on_held_out_rows(lead, put):
    x, y, weight = rows(7, 12, lead, noise=2.0)
    x_held, y_held, _ = rows(7, 12, lead, noise=2.0)[0] + 0.5, y + 1, None
    fit, held = moments_of(put(x), put(y)), moments_of(put(x_held), put(y_held))
    strengths = [1e-4, math.inf, 1e-2, 1.0]
    found = best_damping(fit, held, put(weight), strengths)

    tried = {}
    for strength in strengths:
        parts = map(to_host, ridge(fit, put(weight), strength))
        tried[strength] = squared_error(x_held, y_held, *parts)
    assert found == min(tried, key=tried.__getitem__)


def test_damping_is_weak_with_much_data_and_strong_with_little():
    strengths = [1e-4, 1e-2, 1.0, 100.0, math.inf]
    x, y, weight = rows(8, 2000, noise=0.1)
    sides = moments_of(x[:1000], y[:1000]), moments_of(x[1000:], y[1000:])
    assert best_damping(*sides, weight, strengths) <= 1e-2
    x, y, weight = rows(8, 1006, noise=20.0)
    sides = moments_of(x[:6], y[:6]), moments_of(x[6:], y[6:])
    assert best_damping(*sides, weight, strengths) >= 1.0


def test_equal_strengths_go_to_the_largest():
    x, y, weight = rows(9)
    same = moments_of(0 * x, y)  # nothing to fit: all strengths do equally well
    assert best_damping(same, same, weight, [1e-3, 10.0, 1.0]) == 10.0


def test_refusals():
    x, y, weight = rows(10)
    with pytest.raises(ReapError, match="no rows"):
        ridge(Moments(), weight, 1e-3)
    with pytest.raises(ReapError, match="x has no rows"):
        ridge_rows(x[:0], y[:0], weight, 1e-3)


def test_dampings_are_weakened_as_long_as_it_helps():
    errors = {np.inf: 3.0, 1.0: 2.0, 0.1: 2.5, 0.01: 1.0}
    assert weakest_that_helps(list(errors), errors.__getitem__) == 1.0
    assert weakest_that_helps([1.0, 0.1], {1.0: 1.0, 0.1: np.nan}.__getitem__) == 1.0
