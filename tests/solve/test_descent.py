"""Steps: their sizes, and what they are relative to."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnx_reap.solve.descent import RISING, Descent, _schedule

MATRICES = pytest.mark.parametrize("matrices", [{}, {"w": 1}], ids=["entries", "matrices"])


def walked(
    scale: float,
    slope: float,
    matrices: Mapping[str, int],
    steps: int = 20,
    speed: float = 0.05,
) -> np.ndarray:
    """Descend towards a point; everything times `scale`, gradients times `slope`."""
    rng = np.random.default_rng(0)
    start, goal = (scale * rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
    descent = Descent({"w": start}, {"w": scale}, steps, speed, matrices)
    for _ in range(steps):
        descent.step({"w": np.float32(slope / scale) * (descent.values["w"] - goal)})
    return descent.values["w"]


def test_the_schedule_rises_and_ends_near_zero():
    steps = 50
    sizes = [_schedule((i + 0.5) / steps) for i in range(steps)]
    top = int(np.argmax(sizes))
    assert abs(top - RISING * steps) <= 1
    assert (np.diff(sizes[:top]) > 0).all() and (np.diff(sizes[top:]) < 0).all()
    assert 0.95 < sizes[top] <= 1
    assert 0 < sizes[0] < 0.1 and 0 < sizes[-1] < 0.01


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**12])
@MATRICES
def test_what_is_larger_moves_further_in_proportion(scale, matrices):
    # Powers of two: nothing is rounded differently.
    found, wanted = walked(scale, 1.0, matrices), scale * walked(1.0, 1.0, matrices)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("slope", [2.0**-20, 2.0**20])
@MATRICES
def test_the_unit_of_the_error_does_not_matter(slope, matrices):
    found, wanted = walked(1.0, slope, matrices), walked(1.0, 1.0, matrices)
    np.testing.assert_array_equal(found, wanted)


@MATRICES
def test_it_descends(matrices):
    rng = np.random.default_rng(0)
    start, goal = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
    near = np.abs(walked(1.0, 1.0, matrices, steps=400 if matrices else 200) - goal).mean()
    assert near < 0.1 * np.abs(start - goal).mean()


@pytest.mark.parametrize("size", [1e-25, 1e-22, 1e-15, 1e12])
def test_no_step_is_much_larger_than_the_largest(size):
    """Squares of tiny gradients vanish in float32, and must not be divided by."""
    rng = np.random.default_rng(1)
    steps, speed, scale = 30, 0.05, 2.0
    descent = Descent({"w": np.zeros(100, np.float32)}, {"w": scale}, steps, speed)
    for _ in range(steps):
        before = descent.values["w"].copy()
        descent.step({"w": (size * rng.standard_normal(100)).astype(np.float32)})
        assert np.abs(descent.values["w"] - before).max() <= 4 * speed * scale


def test_steps_side_by_side_are_those_one_by_one():
    rng = np.random.default_rng(2)
    start = {f"w{i}": rng.standard_normal((3, 4 + i)).astype(np.float32) for i in range(6)}
    counts = dict.fromkeys(list(start)[:4], 1)
    with ThreadPoolExecutor(3) as pool:

        def for_all(work, names):
            list(pool.map(work, names))

        found = [
            Descent(start, dict.fromkeys(start, 1.0), 5, 0.1, counts, *how)
            for how in ((), (for_all,))
        ]
        for _ in range(5):
            gradients = {
                name: rng.standard_normal(x.shape).astype(np.float32) for name, x in start.items()
            }
            for descent in found:
                descent.step(gradients)
    for name in start:
        np.testing.assert_array_equal(found[0].values[name], found[1].values[name])
        assert (found[0].values[name] != start[name]).any()


@MATRICES
def test_what_overflows_makes_no_step(matrices):
    start = np.full((3, 4), 1e30, np.float32)
    descent = Descent({"w": start}, {"w": 1e30}, 5, 0.1, matrices)
    descent.step({"w": np.full((3, 4), 1e15, np.float32)})
    np.testing.assert_array_equal(descent.values["w"], start)


def test_the_start_is_left_as_it_was():
    start = np.ones(3, np.float32)
    descent = Descent({"w": start}, {"w": 1.0}, 5, 0.1)
    descent.step({"w": np.ones(3, np.float32)})
    assert (start == 1).all() and (descent.values["w"] < 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@MATRICES
def test_a_gradient_that_is_not_finite_makes_no_step(bad, matrices):
    start = {"w": np.zeros(3, np.float32), "b": np.zeros(1, np.float32)}
    descent = Descent(start, {"w": 1.0, "b": 1.0}, 20, 0.05, matrices)
    good = {"w": np.ones(3, np.float32), "b": np.ones(1, np.float32)}
    for place in range(20):
        before = {name: x.copy() for name, x in descent.values.items()}
        odd = place in (0, 7)
        descent.step(good | {"w": np.array([1, bad, 1], np.float32)} if odd else good)
        for name, x in descent.values.items():
            assert (x == before[name]).all() == odd
    assert all(np.isfinite(x).all() for x in descent.values.values())
