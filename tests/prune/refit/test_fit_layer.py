"""One layer at a time: law 5, and what clipping forgives."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.prune.refit.clip import Clip
from onnx_reap.prune.refit.layer import Rows, Use, fit_constant, fit_layer
from onnx_reap.solve.backend import Backend

BACKEND = Backend.cpu()
CLIPS = {"none": (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 1.0)}


def problem(seed: int, clip: str, *, rows=60, columns=7, outputs=4, maps=2, addend=True, fit=40):
    """A layer whose inputs changed, random in every other respect."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal
    scale, shift = normal(maps * outputs), normal(maps * outputs)
    weight, bias = normal((maps, columns, outputs)), normal((maps, outputs))
    before = normal((maps, rows, columns)) + 0.5
    beside = normal((maps, rows, outputs)) if addend else 0.0
    y = before @ weight + bias[:, None]
    wanted = y * scale.reshape(maps, 1, -1) + shift.reshape(maps, 1, -1) + beside
    x = (before + 0.5 * normal(before.shape)).astype(np.float32)
    now = (beside + 0.3 * normal(wanted.shape)).astype(np.float32) if addend else None
    data = Rows(x, wanted.astype(np.float32), now, fit)
    epilogue = Epilogue(scale, shift, "y", "s" if addend else None, *CLIPS[clip])
    return data, weight, bias, epilogue


def error(rows: Rows, weight: np.ndarray, bias: np.ndarray, epilogue: Epilogue) -> float:
    """Recompute the relative error behind the epilogue, in float64."""
    maps = len(weight)
    y = rows.x.astype(np.float64) @ weight + bias[:, None]
    u = y * epilogue.scale.reshape(maps, 1, -1) + epilogue.shift.reshape(maps, 1, -1)
    u = u if rows.addend is None else u + rows.addend
    u, wanted = (
        np.clip(v, epilogue.low, epilogue.high) for v in (u, rows.wanted.astype(np.float64))
    )
    return float(np.square(u - wanted).mean(1).sum() / wanted.var(1).sum())


@pytest.mark.parametrize("clip", list(CLIPS))
@pytest.mark.parametrize("addend", [True, False])
def test_a_refit_never_raises_the_error_on_its_samples(clip, addend):
    gained = 0
    for seed in range(15):
        rows, weight, bias, epilogue = problem(seed, clip, addend=addend)
        fitted = fit_layer([Use(rows, bias, epilogue)], weight, BACKEND, on_all=True)
        # Rows and predictions are float32, relative errors up to about 10.
        close = pytest.approx
        assert fitted.error_before == close(error(rows, weight, bias, epilogue), rel=1e-4)
        after = error(rows, fitted.weight, fitted.biases[0], epilogue)
        assert fitted.error_after == close(after, rel=1e-4, abs=1e-6)
        assert fitted.error_after <= fitted.error_before
        gained += fitted.error_after < fitted.error_before
    assert gained > 10


@pytest.mark.parametrize("few", [1, 2, 5])
def test_fewer_rows_than_unknowns_do_no_harm_on_these_rows(few):
    for seed in range(10):
        rows, weight, bias, epilogue = problem(seed, "relu", rows=few, columns=30, fit=few - 1)
        fitted = fit_layer([Use(rows, bias, epilogue)], weight, BACKEND, on_all=True)
        assert fitted.error_after <= fitted.error_before
        assert np.isfinite(fitted.weight).all() and np.isfinite(fitted.biases[0]).all()


def test_clipping_forgives_what_lies_beyond_the_bound():
    low, high = 0.0, 6.0
    wanted = np.array([[[-3.0], [-3.0], [2.0], [8.0], [8.0]]], np.float32)
    now = np.array([[[-5.0], [1.0], [3.0], [9.0], [5.0]]], np.float32)
    clip = Clip(low, high, wanted)
    assert clip.bites
    nearest = clip.nearest(now)
    assert nearest.ravel().tolist() == [-5, 0, 2, 9, 6]


def test_targets_are_the_nearest_of_those_that_are_as_good():
    """By search: no value that clips to the same comes nearer to the prediction."""
    rng = np.random.default_rng(0)
    wanted, now = (rng.uniform(-9, 15, (1, 50, 1)).astype(np.float32) for _ in range(2))
    nearest = Clip(0.0, 6.0, wanted).nearest(now)
    grid = np.linspace(-20, 20, 4001)
    for t, p, found in zip(wanted.ravel(), now.ravel(), nearest.ravel(), strict=True):
        good = grid[np.abs(np.clip(grid, 0, 6) - np.clip(t, 0, 6)) < 1e-6]
        good = np.append(good, t)
        assert abs(found - p) <= np.abs(good - p).min() + 1e-5


def test_an_output_that_is_scaled_to_nothing_keeps_its_weights():
    rows, weight, bias, epilogue = problem(0, "none", maps=1, addend=False)
    scale = epilogue.scale.copy()
    scale[1] = 0.0
    wanted = rows.wanted.copy()
    wanted[..., 1] = epilogue.shift[1]
    fitted = fit_layer(
        [Use(Rows(rows.x, wanted, None, rows.fit), bias, Epilogue(scale, epilogue.shift, "y"))],
        weight,
        BACKEND,
        on_all=True,
    )
    assert np.array_equal(fitted.weight[0, :, 1], weight[0, :, 1])
    assert fitted.biases[0][0, 1] == bias[0, 1]
    assert fitted.error_after < fitted.error_before


def test_what_fits_already_stays():
    rows, weight, bias, epilogue = problem(0, "none", addend=False)
    y = rows.x.astype(np.float64) @ weight + bias[:, None]
    wanted = y * epilogue.scale.reshape(2, 1, -1) + epilogue.shift.reshape(2, 1, -1)
    exact = Rows(rows.x, wanted.astype(np.float32), None, rows.fit)
    fitted = fit_layer([Use(exact, bias, epilogue)], weight, BACKEND, on_all=True)
    np.testing.assert_allclose(fitted.weight, weight, rtol=1e-4, atol=1e-5)  # float32 rows
    assert fitted.error_after <= fitted.error_before < 1e-10


def test_fewer_rows_than_columns_give_what_the_same_rows_give_three_times():
    """The one is solved in its dual form, the other by moments, which are the same."""
    rows, weight, bias, epilogue = problem(5, "relu", rows=20, columns=30, fit=15)
    dual = fit_layer([Use(rows, bias, epilogue)], weight, BACKEND, on_all=True)
    thrice = Rows(*(np.repeat(a, 3, axis=1) for a in (rows.x, rows.wanted, rows.addend)), fit=45)
    direct = fit_layer([Use(thrice, bias, epilogue)], weight, BACKEND, on_all=True)
    assert dual.damping == direct.damping < np.inf  # weights were fitted
    np.testing.assert_allclose(dual.weight, direct.weight, rtol=1e-3, atol=1e-4)  # float32 rows


@pytest.mark.parametrize(("on_all", "rows"), [(True, 5), (False, 3)])
def test_a_constant_is_the_mean_of_what_is_missing(on_all: bool, rows: int):
    wanted = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
    given = Rows(np.zeros_like(wanted), wanted, None, fit=3)
    plain = Epilogue(np.ones(2), np.zeros(2), "y")
    fitted = fit_constant(given, np.full((1, 2), 100.0), plain, on_all=on_all)
    np.testing.assert_allclose(fitted.biases[0], wanted[:, :rows].mean(axis=1))
