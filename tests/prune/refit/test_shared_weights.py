"""Layers that share a weight are refitted as one problem over the rows of all of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from net import Net
from small_models import run, weights_of
from test_fit_layer import BACKEND, error, problem
from test_restoration import analysed, cut_and_refit, images

from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.prune.refit.layer import Rows, Use, fit_layer


def uses_of(seeds, *, numbers, rows=60, clip="relu", alike=True, columns=7):
    """Layers of one weight, with the same or with other maps behind them."""
    made = [problem(seed, clip, rows=rows, columns=columns, fit=rows * 2 // 3) for seed in seeds]
    _, weight, bias, first = made[0]
    uses = []
    for (data, _, own, epilogue), number in zip(made, numbers, strict=True):
        b = bias if numbers.count(number) > 1 else own
        uses.append(Use(data, b, first if alike else epilogue, number))
    return uses, weight


def total(uses, weight, biases):
    """Recompute the relative error over all rows."""
    miss = variance = 0.0
    for use in uses:
        clipped = np.clip(use.rows.wanted.astype(np.float64), use.epilogue.low, use.epilogue.high)
        each = clipped.var(1).sum()
        miss += each * error(use.rows, weight, biases[use.number], use.epilogue)
        variance += each
    return miss / variance


@pytest.mark.parametrize("columns", [7, 200], ids=["primal", "dual"])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("numbers", [[0, 0, 0], [0, 1, 2], [0, 1, 0]])
def test_the_error_over_all_uses_never_rises(numbers, alike, columns):
    gained = 0
    for seed in range(6):
        uses, weight = uses_of(
            [seed, seed + 50, seed + 90], numbers=numbers, alike=alike, columns=columns
        )
        fitted = fit_layer(uses, weight, BACKEND, on_all=True)
        old = {use.number: use.bias for use in uses}
        assert fitted.error_before == pytest.approx(total(uses, weight, old), rel=1e-4)
        after = total(uses, fitted.weight, fitted.biases)
        assert fitted.error_after == pytest.approx(after, rel=1e-4, abs=1e-6)
        assert fitted.error_after <= fitted.error_before
        gained += fitted.error_after < fitted.error_before
    assert gained


@pytest.mark.parametrize("columns", [7, 200], ids=["primal", "dual"])
def test_rows_may_be_divided_among_uses(columns):
    """The same problem, in one piece and in two of one bias."""
    data, weight, bias, epilogue = problem(4, "relu", rows=60, columns=columns, fit=40)
    whole = fit_layer([Use(data, bias, epilogue)], weight, BACKEND, on_all=True)
    parts = []
    for some in (np.r_[0:20, 40:50], np.r_[20:40, 50:60]):
        arrays = (a[:, some] for a in (data.x, data.wanted, data.addend))
        parts.append(Use(Rows(*arrays, fit=20), bias, epilogue))
    divided = fit_layer(parts, weight, BACKEND, on_all=True)
    assert divided.damping == whole.damping < np.inf
    np.testing.assert_allclose(divided.weight, whole.weight, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(divided.biases[0], whole.biases[0], rtol=1e-3, atol=1e-4)


def test_the_weight_that_serves_all_uses_is_found_behind_different_maps(monkeypatch):
    """Rows that one weight explains exactly, with biases of their own, scaled in two ways."""
    monkeypatch.setattr("onnx_reap.prune.refit.least_squares.DAMPINGS", (1e-9,))
    rng = np.random.default_rng(0)
    true, uses = rng.standard_normal((1, 5, 4)), []
    for number, dead in enumerate((1, 2)):
        x = rng.standard_normal((1, 80, 5)).astype(np.float32)
        scale, shift = rng.uniform(0.5, 2, 4), rng.standard_normal(4)
        scale[dead] = 0.0  # asks nothing here, but in the other use
        wanted = ((x @ true + 0.3 * (number + 1)) * scale + shift).astype(np.float32)
        epilogue = Epilogue(scale, shift, "y")
        uses.append(Use(Rows(x, wanted, None, 60), np.zeros((1, 4)), epilogue, number))
    fitted = fit_layer(uses, true + 0.5, BACKEND, on_all=True)
    asked = [0, 3]  # the others stay half way, where one use asks nothing
    np.testing.assert_allclose(fitted.weight[..., asked], true[..., asked], atol=1e-3)
    assert fitted.error_after < 0.3 * fitted.error_before


def siamese(make: str, *, bias: bool) -> onnx.ModelProto:
    """Two branches of the same weights; their difference is the output."""
    n = Net({"a": ("N", 3, 6, 6), "b": ("N", 3, 6, 6)}, seed=1)
    w = [n.random(16, 3, 3, 3, scale=0.2), n.random(16, 16, 3, 3, scale=0.1)]
    b = [n.random(16, scale=0.1) for _ in w] if bias else []
    head = n.random(16, 8, scale=0.3)
    ends = []
    for side in "ab":
        h = side
        for i in range(2):
            h = n("Relu", n("Conv", h, w[i], *b[i : i + 1], pads=[1] * 4, name=f"{side}{i}"))
        h = n("Flatten", n("GlobalAveragePool", h))
        more = {"name": f"{side}2"}
        ends.append(
            n("MatMul", h, head, **more) if make == "MatMul" else n("Gemm", h, head, **more)
        )
    return n.model(n("Sub", *ends))


def pairs(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {name: rng.standard_normal((n, 3, 6, 6)).astype(np.float32) for name in "ab"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", ["MatMul", "Gemm"])
def test_branches_that_share_weights_still_do(make, bias):
    model = siamese(make, bias=bias)
    data = pairs(64)
    analysis = analysed(model, data)
    removed = [unit for group in analysis.groups for unit in group.units[:5]]
    (want, cut, got), out, fitted, notes = cut_and_refit(analysis, removed, data)
    assert {f"{side}{i}" for side in "ab" for i in (1, 2)} == set(fitted) and not notes
    for i in (1, 2):
        assert fitted[f"a{i}"].error_after == fitted[f"b{i}"].error_after
        assert fitted[f"a{i}"].error_after < 0.6 * fitted[f"a{i}"].error_before
    assert np.square(want - got).sum() < np.square(want - cut).sum()
    inputs = Counter(name for node in out.graph.node for name in node.input)
    assert all(inputs[name] == 2 for name in weights_of(out))  # also biases that were added
    same = {"a": data["a"], "b": data["a"]}
    assert not np.abs(run(out, same)[0]).max()


@pytest.mark.parametrize("residual", [True, False])
def test_a_block_that_is_applied_again_and_again(residual):
    n = Net({"x": ("N", 3, 6, 6)}, seed=2)
    h = n.block("x", 3, 16)
    w = n.random(24, 16, 3, 3, scale=0.1), n.random(16, 24, 3, 3, scale=0.05)
    for i in range(3):
        inner = n("Relu", n("Conv", h, w[0], pads=[1] * 4, name=f"up{i}"))
        inner = n("Conv", inner, w[1], pads=[1] * 4, name=f"down{i}")
        h = n("Add", inner, h) if residual else n("Relu", inner)
    model = n.model(n.head(h, 16, 4))
    data = images(64, 6)
    analysis = analysed(model, data)
    removed = [u for g in analysis.groups if g.width == 24 for u in g.units[:8]]
    (want, cut, got), out, fitted, notes = cut_and_refit(analysis, removed, data)
    assert not notes and {f"down{i}" for i in range(3)} <= set(fitted)
    assert np.square(want - got).sum() < 0.5 * np.square(want - cut).sum()
    assert Counter(x for node in out.graph.node for x in node.input)[w[1]] == 3


def test_a_convolution_that_slides_over_samples_is_left_alone():
    n = Net({"x": ("N", 3, 6)})
    h = n("Relu", n("Conv", "x", n.random(8, 3, 1, scale=0.5), name="first"))
    h = n("Unsqueeze", n("Transpose", h, perm=[1, 0, 2]), np.array([0]))  # (1, 8, N, 6)
    y = n("Conv", h, n.random(4, 8, 1, 1, scale=0.4), name="over")
    model = n.model(n("Transpose", n("Squeeze", y, np.array([0])), perm=[1, 0, 2]))
    data = images(20, 6)[:, :, 0]
    analysis = analysed(model, data)
    *_, fitted, notes = cut_and_refit(analysis, analysis.groups[0].units[:3], data)
    assert notes == ["over was not refitted: samples lie along an axis that it slides over"]
    assert not fitted
