from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import to_host
from onnx_reap.solve.moments import Moments

NAMES = ("mean_x", "mean_y", "gram", "cross", "var_y")


def stream(*blocks) -> Moments:
    moments = Moments()
    for block in blocks:
        moments.update(*block)
    return moments


def expected(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The textbook formulas, over all rows at once."""
    xc, yc = x - x.mean(-2, keepdims=True), y - y.mean(-2, keepdims=True)
    n = x.shape[-2]
    gram, cross = np.swapaxes(xc, -1, -2) @ xc / n, np.swapaxes(xc, -1, -2) @ yc / n
    return dict(zip(NAMES, (x.mean(-2), y.mean(-2), gram, cross, yc.var(-2)), strict=True))


def assert_moments(moments: Moments, truth: dict[str, np.ndarray], **tolerance: float) -> None:
    for name in NAMES:
        found = to_host(getattr(moments, name))
        np.testing.assert_allclose(found, truth[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_blocks_equal_one_shot(lead, put):
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 2, (*lead, 50, 4)), rng.normal(3, 1, (*lead, 50, 2))
    cuts = [slice(0, 1), slice(1, 30), slice(30, 30), slice(30, 50)]
    moments = stream(*((put(x[..., c, :]), put(y[..., c, :])) for c in cuts))
    assert moments.count == 50
    assert_moments(moments, expected(x, y), rtol=1e-12, atol=1e-13)  # rounding of 50 terms


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_any_split_and_any_merge_order_agree(seed, sizes):
    rng = np.random.default_rng(seed)
    blocks = [(rng.normal(size=(n, 3)), rng.normal(size=(n, 2))) for n in sizes]
    truth = expected(*(np.concatenate(part) for part in zip(*blocks, strict=True)))
    merged = Moments()
    for block in reversed(blocks):
        merged = stream(block).merge(merged)
    assert_moments(stream(*blocks), truth, rtol=1e-10, atol=1e-12)
    assert_moments(merged, truth, rtol=1e-10, atol=1e-12)


def test_a_huge_offset_costs_no_more_than_the_rounding_of_the_mean(put):
    rng = np.random.default_rng(1)
    x, y = 1e6 + rng.normal(size=(64, 3)), rng.normal(size=(64, 2)) - 1e6
    moments = stream(*((put(x[i : i + 16]), put(y[i : i + 16])) for i in range(0, 64, 16)))
    truth = expected(x - 1e6, y + 1e6)  # exact differences
    # A mean is rounded to 1e6 eps = 2e-10, and differs from the next block's by less than 1.
    np.testing.assert_allclose(to_host(moments.gram), truth["gram"], rtol=0, atol=5e-10)
    np.testing.assert_allclose(to_host(moments.cross), truth["cross"], rtol=0, atol=5e-10)
    uncentred = x.T @ x / 64 - np.outer(x.mean(0), x.mean(0))
    assert not np.allclose(uncentred, truth["gram"], rtol=0, atol=1e-6)  # the test can tell


def test_float32_rows_give_float64_moments(put):
    x = np.random.default_rng(2).normal(100, 1, (1000, 3)).astype(np.float32)
    moments = stream((put(x), put(x[:, :1])))
    assert moments.gram.dtype == put.xp.float64
    # Products within a block are taken in float32, sums over blocks in float64.
    truth = expected(x.astype(float), x[:, :1].astype(float))
    assert_moments(moments, truth, rtol=1e-5, atol=1e-5)


def test_targets_are_optional(put):
    x = np.random.default_rng(3).normal(size=(10, 3))
    moments = stream((put(x[:4]),), (put(x[4:]),))
    np.testing.assert_allclose(to_host(moments.gram), np.cov(x.T, bias=True), rtol=1e-12)
    assert moments.cross.shape == (3, 0)


def test_nothing_is_modified(put):
    x, y = put(np.arange(12.0).reshape(6, 2)), put(np.arange(6.0).reshape(6, 1))
    first, second = stream((x, y)), stream((x * 2, y))
    before = np.array(to_host(first.gram))
    first.merge(second)
    first.merge(Moments()).update(x, y)
    np.testing.assert_array_equal(to_host(first.gram), before)
    np.testing.assert_array_equal(to_host(x), np.arange(12.0).reshape(6, 2))


def test_refusals():
    seen = stream((np.ones((2, 3)), np.ones((2, 1))))
    with pytest.raises(ReapError, match="x is not finite"):
        seen.update(np.full((2, 3), np.nan), np.ones((2, 1)))
    with pytest.raises(ReapError, match="no rows"):
        _ = Moments().gram
    assert seen.count == 2
