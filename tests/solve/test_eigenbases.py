"""Bases: exact at full rank, and the best there is at any other, judged by brute force."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest

from onnx_reap.solve.eigenbases import (
    factor,
    factor_slices,
    output_moment,
    slice_moment,
    slices_error,
)
from onnx_reap.solve.linalg import eigenvectors


def problem(inputs: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows of columns that depend on each other, their moment, a weight, scales of its outputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, inputs)) @ rng.standard_normal((inputs, inputs))
    x -= x.mean(axis=0)
    scale = rng.uniform(0.2, 3, outputs) * rng.choice([-1, 1], outputs)
    return x, x.T @ x / len(x), rng.standard_normal((inputs, outputs)), scale


def made(inputs: int, outputs: int):
    x, gram, weight, scale = problem(inputs, outputs)
    return x, weight, scale, factor(weight, output_moment(gram, weight), scale)


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 5), (5, 9), (6, 6)])
def test_the_whole_product_is_the_weight(inputs: int, outputs: int):
    _, weight, _, product = made(inputs, outputs)
    assert product.first.shape == (inputs, min(inputs, outputs))
    np.testing.assert_allclose(product.first @ product.second, weight, atol=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 5), (5, 9)])
def test_the_error_is_the_least_and_the_sum_of_the_other_eigenvalues(inputs: int, outputs: int):
    x, weight, scale, product = made(inputs, outputs)
    wanted = x @ weight * scale
    singular = np.linalg.svd(wanted / np.sqrt(len(x)), compute_uv=False)
    floor = 2e-6 * (singular**2).sum()  # which is part of the eigenvalues, and turns their axes
    for rank in range(min(inputs, outputs)):
        got = x @ product.first[:, :rank] @ product.second[:rank] * scale
        error = ((got - wanted) ** 2).sum() / len(x)
        assert error == pytest.approx((singular[rank:] ** 2).sum(), abs=floor)
        assert product.explained[rank:].sum() == pytest.approx(error, abs=floor)


def test_no_random_product_is_better():
    x, weight, scale, product = made(6, 5)
    best = product.explained[2:].sum()
    rng = np.random.default_rng(1)
    for _ in range(50):
        first = weight @ rng.standard_normal((5, 2))
        z = x @ first
        second = np.linalg.lstsq(z, x @ weight * scale, rcond=None)[0]
        assert (((z @ second) - x @ weight * scale) ** 2).sum() / len(x) >= best * (1 - 1e-6)


@pytest.mark.parametrize("what", ["no data", "dead output", "no scale", "no weight"])
def test_what_the_data_does_not_show_is_in_the_basis_all_the_same(what: str):
    _, gram, weight, scale = problem(6, 8)
    if what == "no data":
        gram = np.zeros_like(gram)
        gram[0, 0] = 1.0
    elif what == "dead output":
        scale[3] = 0.0
    elif what == "no scale":
        scale[:] = 0.0
    else:
        weight[:] = 0.0
    product = factor(weight, output_moment(gram, weight), scale)
    np.testing.assert_allclose(product.first @ product.second, weight, atol=1e-9)


def test_rounding_of_a_moment_that_few_rows_gave_is_not_taken_for_directions():
    """Outputs in float32 leave the space that the weight spans, by more than faint directions."""
    rng = np.random.default_rng(0)
    weight, rows = rng.standard_normal((20, 90)), rng.standard_normal((6, 20))
    y = (rows @ weight).astype(np.float32)
    product = factor(weight, (y.T @ y).astype(np.float64), np.ones(90))
    np.testing.assert_allclose(product.first @ product.second, weight, atol=1e-9)


def slices(channels: int = 4, outputs: int = 5, down: int = 3, across: int = 2):
    columns = channels * down * across
    x, gram, weight, scale = problem(columns, outputs)
    return x, gram, weight, scale, factor_slices(weight, gram, scale, channels, down, across)


def as_kernel(first: np.ndarray, second: np.ndarray, across: int) -> np.ndarray:
    """The (C down across, O) weight that two layers of slices make."""
    rank = first.shape[1]
    return (first @ second.reshape(rank, -1)).reshape(len(first) * across, -1)


def test_slices_make_the_weight():
    _, _, weight, _, product = slices()
    assert product.first.shape == (12, 10)
    np.testing.assert_allclose(as_kernel(product.first, product.second, 2), weight, atol=1e-9)


def test_the_moment_of_slices_is_the_mean_over_places():
    x, gram, *_ = slices()
    rows = x.reshape(len(x), 12, 2).transpose(0, 2, 1).reshape(-1, 12)
    np.testing.assert_allclose(slice_moment(gram, 4, 3, 2), rows.T @ rows / len(rows), atol=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_error_of_slices_is_that_of_least_squares(rank: int):
    x, gram, weight, scale, product = slices()
    z = x.reshape(len(x), 12, 2).transpose(0, 2, 1) @ product.first[:, :rank]
    wanted = x @ weight * scale
    _, error, *_ = np.linalg.lstsq(z.reshape(len(x), -1), wanted, rcond=None)
    found = slices_error(product, rank, weight, gram, scale, 2)
    whole = (wanted**2).sum() / len(x)
    assert found == pytest.approx(error.sum() / len(x), abs=1e-4 * whole)  # it is damped


def test_arrays_of_another_namespace_give_the_same():
    _, gram, weight, scale = problem(12, 5)
    strict = [array_api_strict.asarray(a) for a in (weight, output_moment(gram, weight), scale)]
    for got, expected in (
        (factor(*strict), factor(weight, output_moment(gram, weight), scale)),
        (
            factor_slices(strict[0], array_api_strict.asarray(gram), strict[2], 2, 3, 2),
            factor_slices(weight, gram, scale, 2, 3, 2),
        ),
    ):
        # Axes of a basis may point either way.
        np.testing.assert_allclose(
            np.asarray(got.first @ got.second), expected.first @ expected.second, atol=1e-9
        )
        np.testing.assert_allclose(np.asarray(got.explained), expected.explained, rtol=1e-6)
    product = factor_slices(strict[0], array_api_strict.asarray(gram), strict[2], 2, 3, 2)
    assert slices_error(product, 2, strict[0], array_api_strict.asarray(gram), strict[2], 2) > 0


def test_signs_of_eigenvectors_are_fixed():
    a = np.random.default_rng(0).standard_normal((6, 6))
    values, vectors = eigenvectors(a @ a.T)
    np.testing.assert_allclose(a @ a.T @ vectors, vectors * values, atol=1e-9)
    assert (np.diff(values) <= 0).all()
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(6)] > 0).all()
