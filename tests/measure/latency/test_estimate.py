from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from latency_helpers import layer, table

from onnx_reap.measure.latency.estimate import LatencyEstimate
from onnx_reap.measure.latency.table import LatencyTable, LayerTimes
from onnx_reap.solve.allocation import Budget, Choices, global_threshold
from onnx_reap.solve.cost import Cost, Extent, Term

NO_ENTRIES = Cost((), 2)
FULL = np.array([8, 8])
BOTH = (Extent(0, {0: 1.0}), Extent(0, {1: 1.0}))


def noisy(seed: int, inputs=(2, 4, 5, 8), outputs=(4, 6, 8), name: str = "a") -> LayerTimes:
    times = np.random.default_rng(seed).uniform(0.1, 2, (len(inputs), len(outputs)))
    return layer(name, inputs, outputs, times.tolist())


def cost_of(measured: LatencyTable, entries: Cost = NO_ENTRIES) -> LatencyEstimate:
    return LatencyEstimate(measured, [BOTH] * len(measured.layers), entries, FULL)


@pytest.mark.parametrize("seed", range(10))
def test_measured_points_are_exact(seed: int):
    first, second = noisy(seed), noisy(seed + 100, (4, 8), (2, 4, 6, 7, 8), name="b")
    cost = cost_of(table(first, replace(second, ms=((0.5,) * 5,) * 2)))
    for (i, x), (j, y) in product(enumerate(first.inputs), enumerate(first.outputs)):
        assert cost.at(np.array([x, y])) == pytest.approx(1e6 * (first.ms[i][j] + 0.5), abs=1)


@pytest.mark.parametrize("seed", range(10))
def test_between_measured_points_it_is_monotone(seed: int):
    measured = noisy(seed)
    cost = cost_of(table(measured))
    for i, j in product(range(len(measured.inputs) - 1), range(len(measured.outputs))):
        low, high = measured.inputs[i : i + 2]
        y = measured.outputs[j]
        steps = np.diff([cost.at(np.array([x, y])) for x in np.linspace(low, high, 9)])
        assert (steps >= 0).all() or (steps <= 0).all()


def test_in_a_cell_it_is_bilinear():
    cost = cost_of(table(layer()))  # inputs x outputs hundredths of a millisecond
    for x, y in product(range(2, 9), range(4, 9)):
        assert cost.at(np.array([x, y])) == pytest.approx(x * y * 1e4, abs=1)


def test_nothing_is_saved_below_the_narrowest_width_nor_by_a_slower_one():
    slow = layer(ms=[[9, 9], [1, 1], [5, 5]])
    cost = cost_of(table(slow))
    assert cost.at(np.array([1, 1])) == cost.at(np.array([2, 4])) == 9_000_000
    assert cost.at(np.array([4, 8])) == 1_000_000


def test_a_plan_takes_the_wider_one_that_is_faster():
    slow = layer(ms=[[4, 4], [6, 6], [1, 1], [9, 9]], inputs=(2, 4, 6, 8))
    cost = cost_of(table(slow))
    errors = np.array([3.0, 2.0, 1.0, 0.0])
    choices = [Choices(np.array([2, 4, 6, 8]), errors), Choices(np.array([8]), np.zeros(1))]
    widths = global_threshold(choices, [Budget("--target-latency", cost, 7_000_000)])
    assert widths.tolist() == [6, 8]


def test_an_axis_without_a_choice_does_not_matter():
    depthwise = layer("a", (8,), (2, 4, 8), [[1, 2, 5]])
    cost = LatencyEstimate(table(depthwise), [(BOTH[0], BOTH[0])], NO_ENTRIES, FULL)
    assert [cost.at(np.array([w, 8])) for w in (2, 3, 4, 8)] == [1e6, 1.5e6, 2e6, 5e6]
    np.testing.assert_allclose(cost.per_unit(FULL), [4e6 / 6, 0])


def test_axes_hold_fixed_channels_and_several_groups():
    extents = (Extent(2, {0: 0.5, 1: 0.25}), Extent(8, {}))  # 2 + 4 + 2 channels
    cost = LatencyEstimate(table(layer()), [extents], NO_ENTRIES, FULL)
    assert cost.at(FULL) == pytest.approx(64e4, abs=1)
    assert cost.at(np.array([4, 4])) == pytest.approx(5 * 8e4, abs=1)
    np.testing.assert_allclose(cost.per_unit(FULL), [4e4, 2e4])


def test_the_rest_shrinks_with_the_entries():
    entries = Cost([Term(10.0, (Extent(0, {0: 1.0}),))], 2)
    fixed = layer("a", (8,), (8,), [[3]])
    cost = cost_of(table(fixed, whole=4.0), entries)
    assert cost.at(FULL) == 4_000_000
    assert cost.at(np.array([2, 8])) == 3_250_000
    np.testing.assert_allclose(cost.per_unit(FULL), [1e6 / 8, 0])


def test_layers_that_take_longer_than_the_model_are_scaled():
    cost = cost_of(table(layer(), layer("b"), whole=0.64))
    assert cost.at(FULL) == pytest.approx(0.64e6, abs=1)
    assert cost.at(np.array([4, 8])) == pytest.approx(0.32e6, abs=1)


def test_a_model_without_layers_takes_what_it_takes():
    assert LatencyEstimate(table(whole=1.5), [], NO_ENTRIES, FULL).at(FULL) == 1_500_000


def test_a_layer_that_a_vanished_group_takes_along_costs_nothing():
    first, second = noisy(1), noisy(2, name="b")
    entries = Cost([Term(5e5, (BOTH[0],), frozenset({frozenset({1})}))], 2)
    measured = table(first, second)
    whole = 1e6 * (first.ms[-1][-1] + second.ms[-1][-1]) + 4e6
    measured = replace(measured, whole_ms=whole / 1e6)
    ways = [frozenset({frozenset[int]()}), frozenset({frozenset({1})})]
    cost = LatencyEstimate(measured, [BOTH] * 2, entries, FULL, ways)
    assert cost.at(FULL) == pytest.approx(whole, abs=2)
    assert cost.at(np.array([8, 0])) == pytest.approx(1e6 * first.ms[-1][0], abs=2)
    options = np.array([[2, 5, 8], [0, 4, 8]])
    for widths in (FULL, np.array([8, 0])):
        changed = [[np.array([o, widths[1]]) for o in options[0]]]
        changed += [[np.array([widths[0], o]) for o in options[1]]]
        expected = [[cost.at(w) for w in row] for row in changed]
        np.testing.assert_allclose(cost.alone(widths, options), expected, rtol=0, atol=1)
