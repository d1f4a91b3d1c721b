from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from onnx_reap.errors import TargetError
from onnx_reap.solve.allocation import (
    Budget,
    Choices,
    allowed_widths,
    check_reachable,
    fits,
    global_threshold,
    uniform,
    uniform_within,
)
from onnx_reap.solve.cost import Cost, Extent, Term
from onnx_reap.solve.knapsack import knapsack

SEEDS = range(40)


def chain_cost(rng: np.random.Generator, widths: list[int]) -> Cost:
    """Cost of layers in a row, from 3 inputs through the groups to 10 outputs."""
    extents = [Extent(3, {})]
    extents += [Extent(int(rng.integers(0, 3)), {g: 1.0}) for g in range(len(widths))]
    extents += [Extent(10, {})]
    factors = rng.integers(1, 50, len(extents) - 1)
    terms = [Term(float(f), pair) for f, pair in zip(factors, pairwise(extents), strict=True)]
    return Cost(terms, len(widths))


def instance(seed: int, *, convex: bool) -> tuple[list[Choices], list[Budget]]:
    rng = np.random.default_rng(seed)
    full = rng.integers(3, 7, 4).tolist()
    choices = []
    for width in full:
        steps = rng.uniform(0.01, 1, width - 1) * 10.0 ** rng.integers(-1, 2)
        steps = np.sort(steps)[::-1] if convex else steps
        errors = np.append(np.cumsum(steps[::-1])[::-1], 0)
        choices.append(Choices(np.arange(1, width + 1), errors))
    budgets = []
    for number in range(1 + seed % 2):
        cost = chain_cost(rng, full)
        low, high = cost.at(np.ones(4, int)), cost.at(np.array(full))
        budgets.append(
            Budget(f"--b{number}", cost, int(low + (high - low) * rng.uniform(0.3, 0.9)))
        )
    return choices, budgets


def error_of(widths: np.ndarray, choices: list[Choices]) -> float:
    pairs = zip(widths, choices, strict=True)
    return float(sum(c.errors[np.searchsorted(c.widths, w)] for w, c in pairs))


def best_error(choices: list[Choices], budgets: list[Budget]) -> float:
    every = (np.array(w) for w in product(*(c.widths for c in choices)))
    return min(error_of(w, choices) for w in every if fits(w, budgets))


def one_step_wider(widths: np.ndarray, choices: list[Choices]) -> list[np.ndarray]:
    wider = []
    for g, c in enumerate(choices):
        if widths[g] < c.widths[-1]:
            wider.append(widths.copy())
            wider[-1][g] = c.widths[np.searchsorted(c.widths, widths[g]) + 1]
    return wider


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("allocate", [knapsack, global_threshold, uniform_within])
def test_budgets_hold_and_no_group_could_be_one_step_wider(allocate, convex):
    for seed in SEEDS:
        choices, budgets = instance(seed, convex=convex)
        widths = allocate(choices, budgets)
        assert fits(widths, budgets)
        assert all(w in c.widths for w, c in zip(widths, choices, strict=True))
        assert not any(fits(w, budgets) for w in one_step_wider(widths, choices))


@pytest.mark.parametrize(("convex", "worst", "typical"), [(True, 1.5, 1.05), (False, 2.0, 1.05)])
def test_threshold_is_no_optimum_but_within_a_factor_of_it(convex, worst, typical):
    """A price finds only widths on the convex hull; what these factors guard is its quality."""
    ratios = []
    for seed in SEEDS:
        choices, budgets = instance(seed, convex=convex)
        found = error_of(global_threshold(choices, budgets), choices)
        ratios.append((found + 1e-9) / (best_error(choices, budgets) + 1e-9))
    assert min(ratios) >= 1 - 1e-9  # the oracle is the optimum
    assert max(ratios) <= worst
    assert np.median(ratios) <= typical


def test_threshold_beats_equal_ratios():
    better = 0
    for seed in SEEDS:
        choices, budgets = instance(seed, convex=True)
        by_error = error_of(global_threshold(choices, budgets), choices)
        better += by_error <= error_of(uniform_within(choices, budgets), choices) + 1e-12
    assert better >= 0.9 * len(SEEDS)


def test_a_budget_that_the_model_meets_removes_nothing():
    choices, budgets = instance(0, convex=True)
    full = np.array([c.widths[-1] for c in choices])
    enough = [Budget(b.name, b.cost, b.cost.at(full)) for b in budgets]
    assert np.array_equal(global_threshold(choices, enough), full)
    assert np.array_equal(knapsack(choices, enough), full)
    assert np.array_equal(uniform_within(choices, enough), full)


@pytest.mark.parametrize("allocate", [knapsack, global_threshold, uniform_within])
def test_the_narrowest_widths_just_fit_or_are_refused_with_the_numbers(allocate):
    choices, budgets = instance(0, convex=True)
    narrowest = np.array([c.widths[0] for c in choices])
    cost = budgets[0].cost
    least = cost.at(narrowest)
    assert np.array_equal(allocate(choices, [Budget("--b", cost, least)]), narrowest)
    with pytest.raises(TargetError, match=f"--b: .* got: {least - 1:,} .* at least {least:,}"):
        allocate(choices, [Budget("--b", cost, least - 1)])
    with pytest.raises(TargetError):
        check_reachable([c.widths for c in choices], [Budget("--b", cost, least - 1)])


def test_uniform_takes_the_nearest_width_and_of_two_the_narrower():
    choices = [Choices(np.array([8, 16, 24, 32]), np.zeros(4))] * 4
    assert uniform(choices, [0.0, 0.5, 0.37, 0.375]).tolist() == [32, 16, 24, 16]


@pytest.mark.parametrize(
    ("arguments", "widths"),
    [
        ((64, 1, None, 1), [8, 16, 24, 32, 40, 48, 56, 64]),
        ((63, 1, None, 1), [*range(8, 57, 8), 63]),
        ((31, 1, None, 1), [*range(4, 29, 4), 31]),
        ((16, 1, None, 1), [4, 8, 12, 16]),
        ((15, 1, None, 1), list(range(1, 16))),
        ((1, 1, None, 1), [1]),
        ((20, 1, 8, 1), [8, 16, 20]),
        ((20, 1, 8, 9), [16, 20]),
        ((20, 1, 1, 18), [18, 19, 20]),
        ((20, 1, 1, 20), [20]),
        ((20, 1, 1, 99), [20]),
        ((8, 1, 16, 1), [8]),  # too narrow for a multiple
        ((8, 1, 8, 1), [8]),
        ((24, 6, 16, 1), [24]),  # lcm(16, 6)
        ((30, 15, None, 1), [15, 30]),  # lcm(4, 15) is too wide, and nobody asked for it
        ((24, 6, None, 1), [12, 24]),  # lcm(4, 6)
        ((24, 6, 1, 1), [6, 12, 18, 24]),
        ((24, 6, 1, 7), [12, 18, 24]),
        ((12, 12, None, 1), [12]),
    ],
)
def test_allowed_widths(arguments, widths):
    width, step, round_to, least = arguments
    found = allowed_widths(width, step=step, round_to=round_to, min_channels=least)
    assert found.tolist() == widths


@pytest.mark.parametrize(
    ("width", "spans", "round_to", "least", "widths"),
    [
        (8, {4}, 8, 1, [2, 4, 6, 8]),  # 32 channels, four a unit
        (8, {4}, None, 16, [4, 6, 8]),
        (8, {4}, 1, 9, [3, 4, 5, 6, 7, 8]),
        (16, {4}, None, 1, [2, 4, 6, 8, 10, 12, 14, 16]),  # of 64 channels, multiples of 8
        (12, {64}, None, 1, list(range(1, 13))),  # heads
        (12, {6}, 8, 1, [4, 8, 12]),
        (16, {1, 4}, 8, 5, [8, 16]),  # made as four, read as one
        (20, {1, 49}, 8, 1, [8, 16, 20]),
    ],
)
def test_widths_are_rounded_and_bounded_in_channels(width, spans, round_to, least, widths):
    found = allowed_widths(width, step=1, round_to=round_to, min_channels=least, spans=spans)
    assert found.tolist() == widths


def test_only_what_may_vanish_has_a_width_of_0():
    found = allowed_widths(24, step=1, round_to=8, min_channels=16, may_vanish=True)
    assert found.tolist() == [0, 16, 24]
    found = allowed_widths(4, step=4, round_to=8, min_channels=1, may_vanish=True)
    assert found.tolist() == [0, 4]


def test_a_group_vanishes_where_what_it_takes_along_is_worth_it():
    """Both groups are as wide and as dear by themselves; the second takes another layer along."""
    each = [Term(10.0, (Extent(0, {g: 1.0}),), frozenset({frozenset({g})})) for g in (0, 1)]
    along = Term(30.0, (), frozenset({frozenset({1})}))
    choices = [Choices(np.array([0, 2, 4]), np.array([5.0, 1.0, 0.0]))] * 2
    with_layer, without = Cost([*each, along], 2), Cost(each, 2)
    assert knapsack(choices, [Budget("--b", with_layer, 60)]).tolist() == [4, 0]
    assert knapsack(choices, [Budget("--b", without, 40)]).tolist() == [2, 2]


def test_a_layer_that_is_cheaper_whole_among_narrow_ones_makes_a_budget_reachable():
    """Group 2 lies between two layers in place of one from group 0 to group 1, at 16 it is one."""
    x, y, rank = (Extent(0.0, {group: 1.0}) for group in range(3))
    two = frozenset([frozenset([2])])
    terms = [Term(1.0, (x, y))]
    terms += [Term(1.0, pair, two) for pair in ((x, rank), (rank, y))] + [Term(-1.0, (x, y), two)]
    cost = Cost(terms, 3, np.array([0, 0, 16]))
    choices = [
        Choices(np.array(w), np.arange(len(w))[::-1] / 10) for w in ([4, 16], [4, 16], [8, 16])
    ]
    least = Budget("--b", cost, 4 * 4)
    check_reachable([c.widths for c in choices], [least])
    for allocate in (knapsack, global_threshold):
        assert allocate(choices, [least]).tolist() == [4, 4, 16]
    ranks = Budget("--c", Cost([Term(1.0, (rank,), frozenset())], 3), 8)
    check_reachable([c.widths for c in choices], [replace(least, limit=64), ranks])
    with pytest.raises(TargetError, match="at least 64"):
        uniform_within(choices, [least])
    with pytest.raises(TargetError, match="at least 16"):
        knapsack(choices, [replace(least, limit=15)])
