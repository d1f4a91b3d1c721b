from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import to_host
from onnx_reap.solve.removal import Consumer, removal_path

from .oracles import Problem, constrained_error, naive_path, problem

DAMPING = 1e-3
UNITS = 6
# The oracle squares the rows' rounding errors away, the solver works on the Gram matrix: about
# eps * D / damping of the total separates them.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def plain(rng: np.random.Generator) -> list[Problem]:
    return [problem(rng, np.arange(UNITS)[:, None])]


def taps(rng: np.random.Generator) -> list[Problem]:
    return [problem(rng, rng.permutation(UNITS * 3).reshape(UNITS, 3), fixed=4)]


def several(rng: np.random.Generator) -> list[Problem]:
    wide = problem(rng, np.arange(UNITS * 2).reshape(UNITS, 2), outputs=40)
    return [*plain(rng), *taps(rng), wide]


def padded(rng: np.random.Generator) -> list[Problem]:
    columns = np.arange(UNITS * 2).reshape(UNITS, 2)
    columns[1, 1] = columns[4, 0] = -1
    columns[3] = -1
    return [problem(rng, columns), *plain(rng)]


def grouped(rng: np.random.Generator) -> list[Problem]:
    halves = np.full((2, UNITS, 2), -1)
    halves[0, :3] = halves[1, 3:] = np.arange(6).reshape(3, 2)
    return [problem(rng, columns) for columns in halves]


def few_rows(rng: np.random.Generator) -> list[Problem]:
    return [problem(rng, np.arange(UNITS * 4).reshape(UNITS, 4), rows=7)]


SCENES = [plain, taps, several, padded, grouped, few_rows]


@pytest.fixture(autouse=True, params=[128, 4, 1])
def panel(request, monkeypatch):
    """Panels that are never full, that fill up now and then, and at every step."""
    monkeypatch.setattr("onnx_reap.solve.elimination.PANEL", request.param)


def path(problems, put=np.asarray, steps=UNITS, **options):
    consumers = [p.consumer(put) for p in problems]
    return removal_path(consumers, steps=steps, damping=DAMPING, **options)


@pytest.mark.parametrize("scene", SCENES)
def test_every_error_equals_the_recomputed_one(scene, put):
    problems = scene(np.random.default_rng(0))
    found = path(problems, put)
    fresh = [constrained_error(problems, found.order[: k + 1], DAMPING) for k in range(UNITS)]
    np.testing.assert_allclose(found.errors, fresh, **CLOSE)
    assert sorted(found.order) == list(range(UNITS))
    assert np.all(np.diff(found.errors) >= 0)


@pytest.mark.parametrize("scene", SCENES)
def test_order_equals_the_naive_greedy_one(scene, put):
    problems = scene(np.random.default_rng(1))
    found = path(problems, put, steps=4)
    order, errors = naive_path(problems, 4, DAMPING)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.errors, errors, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCENES))
def test_never_below_brute_force_and_equal_for_one_removal(seed, scene):
    problems = scene(np.random.default_rng(seed))
    found = path(problems, steps=3)
    for k, error in enumerate(found.errors, start=1):
        subsets = combinations(range(UNITS), k)
        best = min(constrained_error(problems, gone, DAMPING) for gone in subsets)
        assert error >= best * (1 - 1e-8)
        if k == 1:
            np.testing.assert_allclose(error, best, **CLOSE)


def test_the_oracle_sees_doubled_weights_and_a_shifted_index():
    (p,) = taps(np.random.default_rng(2))
    errors = path([p]).errors
    order = path([p]).order
    doubled = replace(p, weight=2 * p.weight)
    shifted = replace(p, columns=np.roll(p.columns, 1, axis=0))
    for wrong, gone in [(doubled, order[:2]), (shifted, order[:2]), (p, order[1:3])]:
        assert not np.isclose(constrained_error([wrong], gone, DAMPING), errors[1], rtol=1e-3)


def test_a_given_order_has_the_same_curve(put):
    problems = several(np.random.default_rng(3))
    greedy = path(problems, put)
    replayed = path(problems, put, order=greedy.order.tolist())
    np.testing.assert_array_equal(replayed.order, greedy.order)
    np.testing.assert_array_equal(replayed.errors, greedy.errors)
    backwards = path(problems, put, order=greedy.order[::-1], steps=2)
    fresh = constrained_error(problems, greedy.order[:-3:-1], DAMPING)
    np.testing.assert_allclose(backwards.errors[-1], fresh, **CLOSE)
    assert backwards.errors[-1] > greedy.errors[1]


def test_equal_units_go_lowest_first(put):
    rng = np.random.default_rng(4)
    x = np.repeat(rng.normal(size=(50, 2)), 3, axis=1)  # 0 1 2 are one channel, 3 4 5 another
    p = Problem(x - x.mean(axis=0), np.repeat(rng.normal(size=(2, 4)), 3, axis=0), np.c_[:6])
    order = path([p], put).order.tolist()
    assert [u for u in order if u < 3] == [0, 1, 2]
    assert [u for u in order if u > 2] == [3, 4, 5]


def test_parts_lose_equally_many(put):
    parts = [0, 0, 0, 7, 7, 7]
    (p,) = plain(np.random.default_rng(5))
    problems = [replace(p, weight=p.weight * np.repeat([1e-3, 1], 3)[:, None])]
    assert set(path(problems, put, steps=3).order.tolist()) == {0, 1, 2}  # left to itself
    order = path(problems, put, parts=parts).order
    for rounds in (2, 4, 6):
        lost = np.bincount(np.asarray(parts)[order[:rounds]], minlength=8)
        assert lost[0] == lost[7] == rounds // 2


def test_dead_units_go_first_and_cost_nothing(put):
    p = taps(np.random.default_rng(6))[0]
    x = p.x.copy()
    x[:, p.columns[[2, 5]].ravel()] = 0
    found = path([replace(p, x=x)], put)
    assert found.order[:2].tolist() == [2, 5]
    np.testing.assert_array_equal(found.errors[:2], 0)
    assert np.all(found.errors[2:] > 0)


def test_all_dead(put):
    p = plain(np.random.default_rng(7))[0]
    found = path([replace(p, x=np.zeros_like(p.x))], put)
    assert found.order.tolist() == list(range(UNITS))
    np.testing.assert_array_equal(found.errors, 0)


@pytest.mark.parametrize("damping", [1e-9, 1e-6, 1.0])
def test_an_ill_conditioned_gram_stays_exact(damping):
    rng = np.random.default_rng(8)
    x = np.tile(rng.normal(size=(10, 20)), 2) * np.repeat([1.0, 1e-3], 20)  # rank 9 of 40
    p = Problem(x - x.mean(axis=0), rng.normal(size=(40, 3)), np.arange(40).reshape(20, 2))
    found = removal_path([p.consumer()], steps=20, damping=damping)
    fresh = [constrained_error([p], found.order[: k + 1], damping) for k in range(20)]
    # Of a singular matrix, damping leaves log10(damping / eps) digits: 7 at 1e-9.
    np.testing.assert_allclose(found.errors, fresh, rtol=1e-4, atol=1e-6 * fresh[-1])


def test_all_namespaces_agree(put):
    problems = several(np.random.default_rng(9))
    here, there = path(problems), path(problems, put)
    np.testing.assert_array_equal(here.order, there.order)
    np.testing.assert_allclose(here.errors, there.errors, rtol=1e-10)


def test_inputs_stay_as_they_are(put):
    consumers = [p.consumer(put) for p in padded(np.random.default_rng(10))]
    before = [np.array(to_host(a)) for c in consumers for a in (c.gram, c.weight, c.columns)]
    removal_path(consumers, steps=3)
    after = [to_host(a) for c in consumers for a in (c.gram, c.weight, c.columns)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


GOOD = Consumer(np.eye(4), np.ones((4, 2)), np.arange(4).reshape(4, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gram": np.full((4, 4), np.nan)}, "gram is not finite"),
        ({"gram": -np.eye(4)}, "not positive semidefinite"),
        ({"weight": np.full((4, 2), np.inf)}, "weight is not finite"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ReapError, match=message):
        removal_path([replace(GOOD, **change)], steps=2)


def test_a_consumer_that_stays_as_it_is_loses_what_was_read_of_the_units():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((50, 12)) + 1.0, rng.standard_normal((12, 3))
    columns = np.array([[0, 1], [2, -1], [3, 4], [5, 6], [7, 8], [9, 10]])
    consumer = Consumer(x.T @ x / 50, weight, columns, refitted=False)
    path = removal_path([consumer], steps=6)
    for step, error in enumerate(path.errors, 1):
        gone = columns[path.order[:step]].ravel()
        lost = x[:, gone[gone >= 0]] @ weight[gone[gone >= 0]]
        assert error >= np.square(lost).sum(1).mean() * (1 - 1e-9)
    assert path.errors[-1] == pytest.approx(max(path.errors))
    other = removal_path([consumer], steps=2, order=[4, 0])
    lost = x[:, [7, 8, 0, 1]] @ weight[[7, 8, 0, 1]]
    first = x[:, [7, 8]] @ weight[[7, 8]]
    want = [np.square(e).sum(1).mean() for e in (first, lost)]
    assert other.errors.tolist() == pytest.approx([want[0], max(want)])
