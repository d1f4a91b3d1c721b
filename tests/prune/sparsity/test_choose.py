"""Masks by least squares: in the pattern, and better than those by scores."""

from __future__ import annotations

import numpy as np
import pytest
from solve.conftest import put  # noqa: F401  (a fixture)

from onnx_reap.prune.sparsity import choose as choosing
from onnx_reap.prune.sparsity.choose import choose
from onnx_reap.prune.sparsity.layers import from_grid
from onnx_reap.solve.masked import masked_ridge
from onnx_reap.solve.moments import Moments
from onnx_reap.solve.patterns import Tiles, TwoOfFour, block_sums
from onnx_reap.solve.ridge import residual


def layer(seed: int, channels: int = 8, taps: int = 3, outputs: int = 10, maps: int = 2):
    """Correlated inputs, and a weight: rows (g, n, D), (g, D, O)."""
    rng = np.random.default_rng(seed)
    width = channels * taps
    x = rng.normal(size=(maps, 400, 5)) @ rng.normal(size=(maps, 5, width))
    x += 0.3 * rng.normal(size=x.shape)
    return x, rng.normal(size=(maps, width, outputs))


def by_score(pattern, x, weight, taps):
    scores = weight**2 * x.var(axis=1)[..., None]
    g, width, outputs = scores.shape
    grid = scores.reshape(g, width // taps, taps, outputs).swapaxes(1, 2)
    return from_grid(pattern.masks({"": grid})[""])


def repaired(x, weight, mask) -> float:
    """Error that least squares leaves, by moments."""
    moments = Moments()
    moments.update(x, x @ weight)
    return residual(moments, masked_ridge(moments, weight, 1e-6, mask)[0])


def gram(x):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred.swapaxes(1, 2) @ centred / x.shape[1]


PATTERNS = [TwoOfFour(), Tiles(4, 1, 0.5), Tiles(2, 3, 0.5)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_leaves_less_than_masks_by_score(pattern, put):  # noqa: F811
    ratios = []
    for seed in range(6):
        x, weight = layer(seed, channels=16)
        first = by_score(pattern, x, weight, 3)
        mask = choose(pattern, put(gram(x)), put(weight), first, 3)
        ratios.append(repaired(x, weight, mask) / repaired(x, weight, first))
    # Fours are decided one after the other, which is less than the best of them.
    assert np.mean(ratios) < (0.9 if isinstance(pattern, Tiles) else 0.97)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_obeys_the_pattern(pattern, put):  # noqa: F811
    x, weight = layer(0)
    first = by_score(pattern, x, weight, 3)
    mask = choose(pattern, put(gram(x)), put(weight), first, 3)
    grid = mask.reshape(2, 8, 3, 10).swapaxes(1, 2)
    if isinstance(pattern, TwoOfFour):
        assert (grid.reshape(2, 3, 2, 4, 10).sum(axis=3) == 2).all()
        return
    kept = pattern.pooled(grid.astype(float))
    size = pattern.pooled(np.ones(grid.shape))
    assert ((kept == 0) | (kept == size)).all()
    tiles = block_sums(block_sums(np.ones((2, 3, 8, 10)), 2, pattern.columns), 3, pattern.rows)
    before = pattern.pooled(first.reshape(2, 8, 3, 10).swapaxes(1, 2).astype(float))
    np.testing.assert_array_equal(
        ((kept / tiles) == 1).sum(axis=(1, 2)), ((before / tiles) == 1).sum(axis=(1, 2))
    )


def test_one_tile_that_goes_is_the_one_that_costs_least(put):  # noqa: F811
    x, weight = layer(3, channels=6, taps=1, outputs=4, maps=1)
    first = np.ones(weight.shape, bool)
    first[0, 2] = False
    mask = choose(Tiles(4, 1, 0.2), put(gram(x)), put(weight), first, 1)
    errors = []
    for column in range(6):
        trial = np.ones(weight.shape, bool)
        trial[0, column] = False
        errors.append(repaired(x, weight, trial))
    assert np.flatnonzero(~mask[0, :, 0]).tolist() == [int(np.argmin(errors))]


def test_layers_that_would_take_long_keep_their_mask(monkeypatch):
    x, weight = layer(0)
    first = by_score(PATTERNS[1], x, weight, 3)
    monkeypatch.setattr(choosing, "MOST", 1.0)
    assert choose(PATTERNS[1], gram(x), weight, first, 3) is first
