"""How often intervals of ratios of means hold, and what they are at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve.intervals import LIKELY, ratio_interval


def plain(rng, n):
    return rng.normal(size=n), 0.1 * rng.normal(size=n)


def heavy_errors(rng, n):
    return rng.normal(size=n), 0.1 * rng.normal(size=n) * np.exp(rng.normal(size=n))


def exponential(rng, n):
    y = np.exp(1.5 * rng.normal(size=n))
    return y, 0.1 * y * rng.normal(size=n)


def terms(draw, rng, n):
    """Squared errors of an output, and its squared deviations from its mean."""
    y, error = draw(rng, n)
    return np.square(error), np.square(y - y.mean())


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize(
    ("draw", "likely", "surely"),
    # What tells of little more than the largest of few samples is held less often than asked for.
    [(plain, 0.8, 0.975), (heavy_errors, 0.55, 0.9), (exponential, 0.7, 0.975)],
)
def test_intervals_hold_as_often_as_they_say(draw, likely, surely, n):
    rng = np.random.default_rng(0)
    true = np.divide(*(x.mean() for x in terms(draw, rng, 10**6)))
    held = np.zeros(3)
    for _ in range(500):
        errors, deviations = terms(draw, rng, n)
        low, high = ratio_interval(errors, deviations)
        held += [ratio_interval(errors, deviations, LIKELY)[1] >= true, high >= true, low <= true]
    assert (held >= 500 * np.array([likely, surely, 0.97])).all(), held / 500


def test_intervals_are_wider_where_few_samples_hold_most():
    errors = np.full(50, 0.01)
    _, even = ratio_interval(errors, np.ones(50))
    most = np.where(np.arange(50) == 7, 50.0, 1.0)
    assert ratio_interval(errors * most, most)[1] > 4 * even
    assert even == pytest.approx(0.01)  # nothing differs


def test_they_hold_the_ratio_and_follow_its_scale():
    rng = np.random.default_rng(1)
    errors, deviations = terms(heavy_errors, rng, 40)
    ratio = errors.sum() / deviations.sum()
    low, high = ratio_interval(errors, deviations)
    likely = ratio_interval(errors, deviations, LIKELY)
    assert low < likely[0] < ratio < likely[1] < high
    assert ratio_interval(9 * errors, 3 * deviations) == pytest.approx((3 * low, 3 * high))


def test_no_error_has_no_interval():
    assert ratio_interval(np.zeros(5), np.ones(5)) == (0.0, 0.0)
