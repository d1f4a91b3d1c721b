"""Which descent is taken, by what short ones came to, and what of it is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from onnx_reap.prune.refit import tuning as module
from onnx_reap.prune.refit.network import Distance
from onnx_reap.prune.refit.step_sizes import StepSizes
from onnx_reap.prune.refit.tuning import (
    COPIES_HARM,
    FEWEST_STEPS,
    FRACTIONS,
    NEARLY_AS_GOOD,
    STEP_SIZES,
    WORSE_HALFWAY,
    WORSE_IN_SHORT,
    End,
    Schedule,
    Tuned,
    Tuning,
)

START = Distance(1.0, None, None)
SHORT = 30  # steps, before a descent of 500


def changed(by: float) -> Distance:
    """Change the logarithm of errors."""
    return Distance(math.exp(by), None, None)


class Foretold(Tuning):
    """Descents whose ends are told; the first long ones may go astray."""

    def __init__(
        self, change: Callable[[Schedule], float], *, copies: bool = False, astray: int = 0
    ) -> None:
        self._change, self._astray = change, astray
        self.done: list[tuple[Schedule, int]] = []
        self._best, self._before = None, START
        self._network = SimpleNamespace(has_copies=copies, batches=10, together=1)

    def _descend(self, schedule, steps, on_step):
        self.done.append((schedule, steps))
        return None if steps != SHORT and len(self.long) <= self._astray else End({}, steps)

    def _nearest(self, schedule, end, shares):
        self._best = Tuned({}, end.steps / 10, schedule, START, changed(self._change(schedule)))
        return self._change(schedule)

    @property
    def long(self) -> list[tuple[float, int]]:
        return [(schedule.step_size, steps) for schedule, steps in self.done if steps != SHORT]

    def choose(self) -> Schedule | None:
        return self._best_schedule(SHORT, lambda _: None)


def by_size(*changes: float) -> Callable[[Schedule], float]:
    known = dict(zip(STEP_SIZES, changes, strict=True))
    return lambda schedule: known[schedule.step_size]


@pytest.mark.parametrize(
    ("changes", "size", "descents"),
    [
        ((-0.2, -0.1, 0, 0), STEP_SIZES[0], 2),
        ((-0.2, -0.2 - 2 * NEARLY_AS_GOOD, -0.1, 0), STEP_SIZES[1], 3),
        ((-0.2, -0.2 - NEARLY_AS_GOOD / 2, -0.1, 0), STEP_SIZES[0], 3),
        ((math.inf, 0.5, 0.01 + NEARLY_AS_GOOD / 2, 0.01), STEP_SIZES[2], 4),
        ((2, 1, 0.09, 0.01), STEP_SIZES[3], 4),
    ],
)
def test_the_largest_of_nearly_equal_steps_are_taken(changes, size, descents):
    tuning = Foretold(by_size(*changes))
    assert tuning.choose() == Schedule(size, augmented=False)
    assert len(tuning.done) == descents


def test_where_all_lead_away_none_is_taken():
    assert Foretold(lambda _: 2 * WORSE_IN_SHORT).choose() is None
    assert Foretold(lambda _: math.inf).choose() is None


@pytest.mark.parametrize("harm", [COPIES_HARM / 2, 2 * COPIES_HARM])
def test_copies_are_left_out_where_they_do_grave_harm(harm: float):
    tuning = Foretold(lambda schedule: -0.5 + harm * schedule.augmented, copies=True)
    found = tuning.choose()
    assert found is not None
    assert found.augmented == (harm < COPIES_HARM)
    assert len(set(tuning.done)) == len(tuning.done)


@pytest.mark.parametrize("astray", [0, 1, 2, 4])
def test_after_a_descent_that_went_astray_comes_one_of_smaller_steps(astray: int):
    """It went half of the way."""
    tuning = Foretold(lambda _: -0.1, astray=astray)
    found = tuning.improve(500, lambda _: None)
    left = [(size, 500 >> i) for i, size in enumerate(STEP_SIZES)]
    assert tuning.long == left[: astray + 1]
    assert found is not None
    if astray < 4:
        assert (found.schedule.step_size, found.passes) == (
            STEP_SIZES[astray],
            (500 >> astray) / 10,
        )
    else:  # what the short ones found is left
        assert found.passes == SHORT / 10


def along_a_line(distance: Callable[[float], Distance], **network) -> Tuning:
    """Make one of a single parameter, which starts at 0."""
    result = object.__new__(Tuning)
    parameters = SimpleNamespace(as_stored=lambda values: values)
    vars(result).update(
        _best=None,
        _before=START,
        _start={"w": np.zeros(1, np.float32)},
        _sizes=StepSizes({"w": np.ones(1, np.float32)}, {}),
        _seed=0,
        _until=math.inf,
        _network=SimpleNamespace(
            parameters=parameters,
            batches=10,
            together=1,
            for_all=lambda work, names: [work(name) for name in names],
            distance=lambda x: distance(float(x["w"][0])),
        ),
    )
    vars(result._network).update(network)
    return result


ANY = Schedule(STEP_SIZES[0], augmented=False)


def at(w: float) -> End:
    return End({"w": np.full(1, w, np.float32)}, 10)


def test_the_best_of_all_points_is_kept():
    """All points of a later descent are nearer than the start, and further away than this one."""
    tuning = along_a_line(lambda w: changed((w - 1) ** 2 - 1))
    for end in (1.0, 1.6):
        tuning._nearest(ANY, at(end), (0.25, 0.5, 1.0))
    best = tuning._best
    assert best is not None
    assert best.values["w"] == 1
    assert best.after == changed(-1)
    assert best.passes == 1


def test_points_that_move_an_output_away_are_not_kept():
    tuning = along_a_line(lambda w: Distance((1 - w) ** 2, None, 1 + w / 8))
    tuning._before = Distance(1.0, None, 1.0)
    assert tuning._nearest(ANY, at(0.5), (0.5, 1.0)) < 0
    assert tuning._best is None


def test_infinite_parameters_are_never_looked_at():
    tuning = along_a_line(lambda _: changed(-1))
    tuning._network.parameters.as_stored = lambda values: {"w": values["w"] / np.float32(0)}
    with np.errstate(divide="ignore"):
        assert tuning._nearest(ANY, at(1.0), (0.5, 1.0)) == math.inf
    assert tuning._best is None


@pytest.mark.parametrize(
    ("halfway", "steps"), [(WORSE_HALFWAY * 1.1, 30), (WORSE_HALFWAY * 0.9, 60)]
)
def test_a_descent_that_goes_astray_ends_halfway(halfway: float, steps: int):
    taken: list[int] = []
    tuning = along_a_line(
        lambda _: changed(halfway),
        one_pass=lambda *_, **__: iter([[{}]]),
        gradients=lambda values, _: values,
    )
    end = tuning._descend(ANY, 60, taken.append)
    assert (end is None) == (halfway > WORSE_HALFWAY)
    assert len(taken) == steps


def test_a_descent_ends_when_its_time_is_over():
    tuning = along_a_line(
        lambda _: START,
        one_pass=lambda *_, **__: iter([[{}]]),
        gradients=lambda values, _: values,
    )
    tuning._until = 0.0
    end = tuning._descend(ANY, 60, lambda _: None)
    assert end is not None
    assert end.steps == 0


def test_a_step_takes_the_time_of_its_descent_as_well(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module.Descent, "step", lambda *_: time.sleep(0.02))
    tuning = along_a_line(
        lambda _: START,
        one_pass=lambda *_, **__: iter([[{}]] * 9),
        gradients=lambda values, _: values,
    )
    _, needed = tuning.affordable(math.inf)
    assert needed >= 0.02 * tuning.enough


@pytest.mark.parametrize("batches", [10, 300, 30_000])
@pytest.mark.parametrize("seconds", [math.inf, 1.0, 0.1, 1e-9])
def test_as_many_steps_are_made_as_time_allows(batches: int, seconds: float):
    """Of many samples, a part of a pass."""
    tuning = along_a_line(
        lambda _: START,
        one_pass=lambda *_, **__: iter([[{}]] * 9),
        gradients=lambda values, _: values,
        batches=batches,
    )
    steps, needed = tuning.affordable(seconds)
    assert tuning.enough == min(100 * batches, module.ENOUGH_STEPS)
    assert steps in [0, *(round(f * tuning.enough) for f in FRACTIONS)]
    if seconds == math.inf:
        assert steps == tuning.enough
    if seconds == 1e-9:
        assert steps == 0
    assert steps == 0 or steps >= FEWEST_STEPS
    assert needed > 0
