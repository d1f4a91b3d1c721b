"""The share of first choices that change, from margins, against counting."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve import disagreement
from onnx_reap.solve.disagreement import changed_share

CLASSES = 3


def scores(margins) -> np.ndarray:
    """Scores whose first class exceeds the others by a margin, or falls short of the best one."""
    rows = np.zeros((len(margins), CLASSES))
    rows[:, 0] = margins
    rows[:, 2] = -1e-9
    return rows


def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins like those of a trained network, and changes that know nothing of them."""
    margins = rng.exponential(5, n)
    return margins, rng.normal(0.1, 0.3, n)


def test_models_that_agree():
    x = np.random.default_rng(0).standard_normal((50, CLASSES))
    assert changed_share(x, x) == (0, 0)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_every_pair_counts_among_few_samples(n: int, monkeypatch):
    monkeypatch.setattr(disagreement, "WINDOW", 1.0)
    rng = np.random.default_rng(n)
    margins, changes = rng.random((2, n))
    pairs = [change > margin for change in changes for margin in margins]
    share, _ = changed_share(scores(margins), scores(margins - changes))
    assert share == pytest.approx(np.mean(pairs))


def test_only_samples_about_as_near_to_the_border_are_compared():
    # Those far away change more, which would flip those nearby.
    margins = np.array([1.0] * 20 + [100.0] * 80)
    changes = np.where(margins > 1, 50.0, 0.0)
    before, after = scores(margins), scores(margins - changes)
    assert changed_share(before, after)[0] < 0.1
    known = np.concatenate([before, scores(np.full(100, 99.0))])  # far away, all of them
    assert changed_share(before, after, known)[0] < 0.05
    # Nor is what samples near the border do expected of those far away.
    margins = np.concatenate([np.linspace(1, 2, 20), np.linspace(100, 200, 80)])
    before, after = scores(margins), scores(margins - np.where(margins > 2, 0.0, 400.0))
    known = np.concatenate([before, scores(np.full(100, 300.0))])
    assert 0.05 < changed_share(before, after, known)[0] < 0.2
    assert np.mean(changes[:, None] > margins) > 0.15


def test_it_is_right_on_average_and_varies_less_than_counting():
    rng = np.random.default_rng(0)
    margins, changes = drawn(rng, 10**6)
    true = (changes > margins).mean()
    counted, found, errors = [], [], []
    for _ in range(300):
        margins, changes = drawn(rng, 150)
        counted.append((changes > margins).mean())
        share, error = changed_share(scores(margins), scores(margins - changes))
        found.append(share)
        errors.append(error)
    assert np.mean(found) == pytest.approx(true, rel=0.05)
    assert np.std(found) < 0.75 * np.std(counted)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.25)


def test_margins_of_other_samples_make_it_surer():
    rng = np.random.default_rng(1)
    margins, changes = drawn(rng, 10**6)
    true = (changes > margins).mean()
    alone, together, errors = [], [], []
    for _ in range(300):
        (margins, changes), (others, _) = drawn(rng, 100), drawn(rng, 300)
        before, after = scores(margins), scores(margins - changes)
        alone.append(changed_share(before, after)[0])
        known = np.concatenate([before, scores(others)])
        share, error = changed_share(before, after, known)
        together.append(share)
        errors.append(error)
    assert np.mean(together) == pytest.approx(true, rel=0.05)
    assert np.std(together) < 0.85 * np.std(alone)
    assert np.mean(errors) == pytest.approx(np.std(together), rel=0.25)


def test_every_first_choice_may_change():
    x = scores(np.arange(1.0, 91.0))
    assert changed_share(x, -100 * x)[0] == 1


def test_what_is_not_a_number_counts_as_changed():
    x = scores(np.ones(10))
    assert changed_share(x, np.full_like(x, np.nan))[0] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("masked", [[2], [1, 2]])
def test_the_original_may_mask_classes(masked: list[int]):
    x = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    x[:, masked] = -np.inf
    assert changed_share(x, x)[0] == 0
