from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve.cost import Cost, Extent, Term


def random_cost(seed: int, groups: int = 4) -> tuple[Cost, list[Term]]:
    rng = np.random.default_rng(seed)

    def extent() -> Extent:
        members = rng.permutation(groups)[: rng.integers(0, 3)]
        return Extent(int(rng.integers(0, 9)), {int(g): float(rng.integers(1, 5)) for g in members})

    terms = [
        Term(float(rng.integers(1, 9)), tuple(extent() for _ in range(rng.integers(0, 3))))
        for _ in range(6)
    ]
    return Cost(terms, groups), terms


def by_hand(terms: list[Term], widths: np.ndarray) -> float:
    total = 0.0
    for term in terms:
        value = term.factor
        for extent in term.extents:
            value *= extent.fixed + sum(widths[g] * each for g, each in extent.per_unit.items())
        total += value
    return total


@pytest.mark.parametrize("seed", range(20))
def test_the_cost_is_the_sum_of_products(seed):
    cost, terms = random_cost(seed)
    widths = np.random.default_rng(seed).integers(1, 50, 4)
    assert cost.at(widths) == by_hand(terms, widths)


@pytest.mark.parametrize("seed", range(20))
def test_the_derivative_is_that_of_finite_differences(seed):
    cost, terms = random_cost(seed)
    widths = np.random.default_rng(seed).integers(2, 50, 4)
    # Costs are quadratic in each width at most, so central differences are exact.
    differences = [
        (by_hand(terms, widths + step) - by_hand(terms, widths - step)) / 2
        for step in np.eye(4, dtype=int)
    ]
    np.testing.assert_allclose(cost.per_unit(widths), differences, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_alone_is_the_cost_with_one_width_changed(seed):
    """Terms here may have a group on both axes, so that its width counts squared."""
    cost, terms = random_cost(seed)
    rng = np.random.default_rng(seed)
    widths, options = rng.integers(1, 50, 4), rng.integers(1, 50, (4, 3))
    expected = np.zeros(options.shape)
    for g, i in np.ndindex(*options.shape):
        changed = widths.copy()
        changed[g] = options[g, i]
        expected[g, i] = by_hand(terms, changed)
    # Sums of whole numbers below 2**53 in another order are the same.
    np.testing.assert_array_equal(cost.alone(widths, options), expected)


def test_costs_add_up():
    (a, terms_a), (b, terms_b) = random_cost(1), random_cost(2)
    widths = np.array([3, 1, 4, 1])
    assert (a + b).at(widths) == by_hand(terms_a + terms_b, widths)
    assert (a + Cost((), 4)).at(widths) == a.at(widths)
    assert a.at(widths) == by_hand(terms_a, widths)  # unchanged
