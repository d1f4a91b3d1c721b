"""Which descent is taken, by what short ones came to."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from onnx_reap.prune.refit.network import Distance
from onnx_reap.prune.refit.tuning import HARM, HOPELESS, LOST, SPEEDS, TIE, Course, Tuning

START = Distance(1.0, None, None)


def tuning(
    change: Callable[[Course], float],
    descend: Callable[..., Course | None],
    *,
    copies: bool = False,
) -> Tuning:
    """Make one whose descents and distances are as told."""
    result = object.__new__(Tuning)
    vars(result).update(
        _before=START,
        _together=1,
        _network=SimpleNamespace(has_copies=copies, batches=10),
        _descend=descend,
        _nearest=lambda course, _: (None, Distance(math.exp(change(course)), None, None)),
    )
    return result


def best(
    change: Callable[[Course], float], *, copies: bool = False
) -> tuple[Course | None, list[Course]]:
    """Choose where a trial changes the logarithm of errors as told; return what was tried, too."""
    tried = []

    def descend(course: Course, *_) -> Course:
        tried.append(course)
        return course

    return tuning(change, descend, copies=copies)._best_course(20, lambda _: None), tried


def by_speed(*changes: float) -> Callable[[Course], float]:
    known = dict(zip(SPEEDS, changes, strict=True))
    return lambda course: known[course.speed]


@pytest.mark.parametrize(
    ("changes", "speed", "trials"),
    [
        ((-0.2, -0.1, 0, 0), SPEEDS[0], 2),
        ((-0.2, -0.2 - 2 * TIE, -0.1, 0), SPEEDS[1], 3),
        ((-0.2, -0.2 - TIE / 2, -0.1, 0), SPEEDS[0], 3),
        ((math.inf, 0.5, 0.01 + TIE / 2, 0.01), SPEEDS[2], 4),
        ((2, 1, 0.09, 0.01), SPEEDS[3], 4),
    ],
)
def test_the_fastest_of_nearly_equal_trials_is_taken(changes, speed, trials):
    found, tried = best(by_speed(*changes))
    assert found == Course(speed, copies=False)
    assert len(tried) == trials


def test_where_all_lead_away_none_is_taken():
    assert best(lambda _: 2 * HOPELESS)[0] is None
    assert best(lambda _: math.inf)[0] is None


@pytest.mark.parametrize("harm", [HARM / 2, 2 * HARM])
def test_copies_are_left_out_where_they_do_grave_harm(harm: float):
    found, tried = best(lambda course: -0.5 + harm * course.copies, copies=True)
    assert found.copies == (harm < HARM)
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("astray", [0, 1, 2, 4])
def test_after_a_descent_that_went_astray_comes_a_slower_one(astray: int):
    """It went half of the way."""
    long = []

    def descend(course: Course, steps: int, _) -> Course | None:
        if steps == 30:  # A trial
            return course
        long.append((course.speed, steps))
        return None if len(long) <= astray else course

    found = tuning(lambda _: -0.1, descend).improve(50, lambda _: None)
    left = [(speed, 500 >> i) for i, speed in enumerate(SPEEDS)]
    assert long == left[: astray + 1]
    assert (found is None) == (astray == 4)
    if found is not None:
        assert found.course.speed == SPEEDS[astray]
        assert found.passes == 50 >> astray


@pytest.mark.parametrize(("halfway", "steps"), [(LOST * 1.1, 30), (LOST * 0.9, 60)])
def test_a_descent_that_goes_astray_ends_halfway(halfway: float, steps: int):
    taken = []
    result = object.__new__(Tuning)
    vars(result).update(
        _seed=0,
        _together=1,
        _before=START,
        _start={"w": np.zeros(1, np.float32)},
        _scales={"w": 1.0},
        _network=SimpleNamespace(
            one_pass=lambda *_, **__: iter([[{}]]),
            gradients=lambda values, _: values,
            distance=lambda _: Distance(math.exp(halfway), None, None),
        ),
    )
    end = result._descend(Course(SPEEDS[0], copies=False), 60, taken.append)
    assert (end is None) == (halfway > LOST)
    assert len(taken) == steps
