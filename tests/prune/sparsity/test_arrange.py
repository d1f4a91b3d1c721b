"""The order of channels: masks keep more, and exchanges gain what they say."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from onnx_reap.graph.groups import Group
from onnx_reap.graph.labels.records import Linear
from onnx_reap.prune.sparsity.arrange import Side, arrange
from onnx_reap.prune.sparsity.layers import Layer, moved
from onnx_reap.prune.sparsity.permute import reorder
from onnx_reap.solve.patterns import Tiles, TwoOfFour, share_lost


def linear(name: str) -> Linear:
    return Linear(name, "Conv", "x", "y", 1, 1, "w", None, 1, 0)


def network(seed: int, width: int = 16, parts=None):
    """One layer makes a group's channels, two read them; scores are far from even."""
    rng = np.random.default_rng(seed)
    units = tuple(range(1, width + 1))
    frozen = np.zeros(8, np.int64)
    layers = {
        "a": Layer(linear("a"), frozen, np.array(units)),
        "b": Layer(linear("b"), np.array(units), frozen),
        "c": Layer(linear("c"), np.array(units[::-1]), frozen),
    }
    scores = {
        "a": rng.exponential(size=(1, 9, 8, width)) * rng.exponential(size=width) ** 2,
        "b": rng.exponential(size=(1, 9, width, 8)) * rng.exponential(size=width)[:, None] ** 2,
        "c": rng.exponential(size=(1, 1, width, 8)) ** 2,
    }
    return layers, scores, [Group("a", units, ("a",), ("b", "c"), parts)]


def after(layers, scores, place):
    return {
        node: moved(s, reorder(layers[node].x_units, place), reorder(layers[node].y_units, place))
        for node, s in scores.items()
    }


@pytest.mark.parametrize("pattern", [TwoOfFour(), Tiles(8, 1, 0.5), Tiles(4, 4, 0.5)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_masks_keep_more(pattern, seed):
    layers, scores, groups = network(seed)
    now = after(layers, scores, arrange(layers, scores, groups, pattern))
    assert share_lost(now, pattern.masks(now)) < share_lost(scores, pattern.masks(scores))


def test_eight_channels_come_near_the_best_order():
    layers, scores, groups = network(1, width=8)

    def lost(place):
        now = after(layers, scores, place)
        return share_lost(now, TwoOfFour().masks(now))

    units = groups[0].units
    # Fours are sets: who goes with the first channel tells all.
    best = min(
        lost(dict(zip(units, (1, *own, *(u for u in units[1:] if u not in own)), strict=True)))
        for own in permutations(units[1:], 3)
        if list(own) == sorted(own)
    )
    found, start = lost(arrange(layers, scores, groups, TwoOfFour())), lost({})
    assert found <= best + 0.1 * (start - best)


def test_channels_stay_in_their_part():
    parts = (0,) * 8 + (1,) * 8
    layers, scores, groups = network(0, parts=parts)
    place = arrange(layers, scores, groups, Tiles(8, 1, 0.5))
    assert all((u <= 8) == (v <= 8) for u, v in place.items())


@pytest.mark.parametrize("tiles", [True, False])
def test_an_exchange_gains_what_it_says(tiles):
    rng = np.random.default_rng(0)
    features = rng.exponential(size=(12, 30)).astype(np.float32)
    limit = np.full((12, 30), 4.0, np.float32) if tiles else None
    side = Side(features, np.arange(12) // 4, np.arange(12), limit)

    def worth(x):
        fours = x.reshape(3, 4, 30)
        if tiles:
            return np.maximum(fours.sum(axis=1) - 4, 0).sum()
        return np.sort(fours, axis=1)[:, 2:].sum()

    gains = side.gains()
    for i, j in [(0, 5), (3, 11), (6, 9), (1, 2)]:
        swap = np.arange(12)
        swap[[i, j]] = j, i
        assert gains[i, j] == pytest.approx(worth(features[swap]) - worth(features), abs=1e-3)


def test_the_same_scores_give_the_same_order():
    layers, scores, groups = network(2)
    first, second = (arrange(layers, scores, groups, TwoOfFour()) for _ in range(2))
    assert first == second


def test_channels_move_within_their_map():
    rng = np.random.default_rng(0)
    grid = rng.random((2, 3, 4, 5)) < 0.5
    columns = np.concatenate([rng.permutation(4), 4 + rng.permutation(4)])
    rows = np.concatenate([rng.permutation(5), 5 + rng.permutation(5)])
    there = moved(grid, columns, rows)
    assert there[1, 2, 0, 0] == grid[1, 2, columns[4] - 4, rows[5] - 5]
    back = moved(there, np.argsort(columns), np.argsort(rows))
    np.testing.assert_array_equal(back, grid)
