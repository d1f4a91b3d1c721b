"""Numbers are rounded to grids that hold them, and stay on a grid that they lie on."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_reap.solve.grid import Grid, fitted

RNG = np.random.default_rng(0)


def grid(shape, axis=None, zero=0, low=-127, high=127, symmetric=True) -> Grid:
    sizes = [n if a == axis else 1 for a, n in enumerate(shape)]
    scale = np.broadcast_to(RNG.uniform(0.01, 0.1, sizes).astype(np.float32), shape)
    return Grid(scale, np.broadcast_to(np.int64(zero), shape), low, high, axis, symmetric)


GRIDS = {
    "one scale": lambda: grid((6, 4)),
    "one for each row": lambda: grid((6, 4), 0),
    "one for each column": lambda: grid((6, 4), 1),
    "unsigned": lambda: grid((6, 4), 0, 128, 1, 255),
    "asymmetric": lambda: grid((6, 4), 0, 17, -128, 127, symmetric=False),
}


@pytest.mark.parametrize("name", list(GRIDS))
def test_what_lies_on_a_grid_stays(name: str):
    given = GRIDS[name]()
    values = given.real(RNG.integers(given.low, given.high + 1, (6, 4)))
    again = fitted(values, given)
    np.testing.assert_array_equal(again.scale, given.scale)
    np.testing.assert_array_equal(again.zero, given.zero)
    np.testing.assert_array_equal(again.real(again.nearest(values)), values)


@pytest.mark.parametrize("name", list(GRIDS))
def test_other_numbers_are_off_by_half_a_step_of_the_smallest_scale(name: str):
    given = GRIDS[name]()
    values = RNG.standard_normal((6, 4)).astype(np.float32)
    found = fitted(values, given)
    # An asymmetric grid is shifted by up to half a step, so that it holds zero.
    most = 0.5 if given.symmetric else 1.0
    off = np.abs(found.real(found.nearest(values)) - values) / found.scale
    assert off.max() <= most + 1e-4
    others = tuple(a for a in range(2) if a != given.axis)
    span = np.maximum(values.max(others, keepdims=True), 0) - np.minimum(
        values.min(others, keepdims=True), 0
    )
    widest = 2 * np.abs(values).max(others, keepdims=True) if given.symmetric else span
    wanted = np.broadcast_to(widest / (given.high - given.low), (6, 4))
    np.testing.assert_allclose(found.scale, wanted, rtol=1e-5)
    np.testing.assert_array_equal(found.real(found.nearest(np.zeros((6, 4)))), 0)


def test_rows_that_lie_on_the_grid_stay_beside_others():
    given = grid((2, 4), 0)
    values = given.real(RNG.integers(-127, 128, (2, 4)))
    values[1] *= np.float32(1.234)
    found = fitted(values, given)
    assert (found.scale[0] == given.scale[0]).all()
    assert (found.scale[1] != given.scale[1]).all()


def test_scales_are_not_smaller_than_allowed():
    given = grid((2, 4), 0)
    values = given.real(RNG.integers(-127, 128, (2, 4)))
    least = np.array([0.0, 1.0])
    np.testing.assert_allclose(fitted(values, given, least).scale[:, 0], [given.scale[0, 0], 1])
