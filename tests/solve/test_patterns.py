"""Masks obey their pattern, and lose as little score as it allows."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from onnx_reap.solve.patterns import Tiles, TwoOfFour, block_sums, read_tile, share_lost


def scores(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.exponential(size=shape) for name, shape in shapes.items()}


def test_two_of_four_keeps_the_best_pair_of_every_four():
    given = scores(a=(2, 3, 8, 5))
    mask = TwoOfFour().masks(given)["a"]
    for g, t, c, o in np.ndindex(2, 3, 2, 5):
        four = given["a"][g, t, 4 * c : 4 * c + 4, o]
        kept = mask[g, t, 4 * c : 4 * c + 4, o]
        assert kept.sum() == 2
        assert four[kept].sum() == max(four[list(pair)].sum() for pair in combinations(range(4), 2))


def test_ties_leave_two_of_four():
    assert TwoOfFour().masks({"a": np.zeros((1, 1, 8, 3))})["a"].sum() == 12


@pytest.mark.parametrize("rows, columns", [(8, 1), (1, 4), (4, 4), (3, 5)])
def test_tiles_stay_or_go_whole(rows, columns):
    given = scores(a=(1, 9, 16, 24), b=(2, 1, 7, 10))
    masks = Tiles(rows, columns, 0.5).masks(given)
    for name, mask in masks.items():
        kept = block_sums(block_sums(mask.astype(float), 2, columns), 3, rows)
        size = block_sums(block_sums(np.ones(mask.shape), 2, columns), 3, rows)
        assert ((kept == 0) | (kept == size)).all(), name
        assert mask.any(), name


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_so_many_weights_go_over_all_layers(sparsity):
    masks = Tiles(4, 1, sparsity).masks(scores(a=(1, 9, 16, 24), b=(1, 9, 24, 32)))
    size = sum(mask.size for mask in masks.values())
    assert 1 - sum(mask.sum() for mask in masks.values()) / size == pytest.approx(
        sparsity, abs=2e-3
    )


def test_no_other_tiles_hold_less():
    given = scores(a=(1, 1, 4, 4))
    tiles = Tiles(2, 2, 0.5)
    lost = share_lost(given, tiles.masks(given))
    totals = tiles.pooled(given["a"]).ravel() / given["a"].sum()
    assert lost == pytest.approx(min(sum(pair) for pair in combinations(totals, 2)))


def test_layers_worth_nothing_keep_a_part():
    given = scores(a=(1, 1, 16, 16), b=(1, 1, 16, 16))
    given["b"] *= 1e-9
    masks = Tiles(2, 1, 0.5).masks(given)
    assert masks["b"].mean() == pytest.approx(0.125)


def test_two_of_four_refuses_other_widths():
    assert TwoOfFour().refuses(8) is None
    assert "no multiple of 4" in (TwoOfFour().refuses(3) or "")


def test_tiles_are_read():
    assert read_tile("16x2") == (16, 2)
    assert read_tile("8") is read_tile("0x4") is read_tile("8x") is None
