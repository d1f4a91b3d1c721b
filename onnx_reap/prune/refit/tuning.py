"""How a cut model is tuned as a whole: what step to take, how far to go, and whether it helped."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

import numpy as np

from onnx_reap.prune.refit.network import Distance, Network
from onnx_reap.prune.refit.parameters import Arrays
from onnx_reap.prune.refit.side_by_side import Feed
from onnx_reap.solve.adam import Descent

SPEEDS = (0.015, 0.005, 0.0015, 0.0005)
"""Largest steps to try, relative to the size of what moves."""

TRIAL = 0.06  # of all steps, for each trial
SHORTEST, LONGEST = 15, 80  # steps of a trial
TRIALS = 5  # at most
HOPELESS = 0.1  # of the logarithm of errors: so much worse after trials, no descent is worth it
# Of the logarithm of errors. The noise of large steps and of copies is most of what short descents
# show, above all at their ends; long ones average it out, and go further by them.
TIE = 0.03  # the fastest one is taken of trials that are nearly as good
HARM = 0.1  # copies that are this much worse in a trial do harm
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way that descent went; the validation split chooses
STEP = 8  # samples a step: many small steps bring more than few large ones
LOST = 0.5  # of the logarithm of errors: halfway this much worse, there is nothing to wait for
STEPS = 5000  # that bring nearly all there is to gain
FEWEST = 30  # that are worth a start
PASSES = (100, 80, 60, 40, 30, 20, 15, 10, 8, 6, 4, 3, 2, 1)
"""Over the training samples. Few numbers, so that runs of one speed mostly agree."""


@dataclass(frozen=True)
class Course:
    """How parameters descend."""

    speed: float  # Of the largest step, relative to the size of what moves
    copies: bool  # Whether copies of the samples stand in for them


@dataclass(frozen=True)
class Tuned:
    """What tuning came to."""

    values: Arrays  # Those that came nearest to the original
    passes: int  # Over the training samples
    course: Course
    # On the validation split
    before: Distance
    after: Distance


class Tuning:
    """Tunes a network.

    Parameters
    ----------
    together : int
        Batches whose gradients make a step.
    seed : int
        Of the order of samples.
    zeros_stay : bool
        Whether weights that are zero remain so.
    """

    def __init__(self, network: Network, together: int, seed: int, *, zeros_stay: bool) -> None:
        self._network, self._together, self._seed = network, together, seed
        self._scales = network.steps(zeros_stay=zeros_stay)
        self._start = network.values
        self._before = network.distance(self._start)

    @property
    def steps(self) -> int:
        """Steps of a pass."""
        return -(-self._network.batches // self._together)

    @property
    def enough(self) -> int:
        """Passes that bring nearly all there is to gain."""
        return int(np.clip(STEPS // self.steps, 1, PASSES[0]))

    def work(self, passes: int) -> int:
        """Count the steps of so many passes, with those of all trials."""
        return passes * self.steps + TRIALS * _trial(passes * self.steps)

    def affordable(self, seconds: float) -> tuple[int, float]:
        """Return how many passes fit in a time, trials included, and the time that all take.

        There are no more than bring something.
        """
        feeds = next(self._batches(Course(0.0, copies=True), np.random.default_rng(0)))
        times: list[float] = []
        # The first one warms up, and may show that there is no time.
        while len(times) < 3 and sum(times) * FEWEST < seconds:
            begin = perf_counter()
            self._network.gradients(self._start, feeds)
            times.append(perf_counter() - begin)
        begin = perf_counter()
        self._network.distance(self._start)
        looks = (2 * TRIALS + len(SHARES)) * (perf_counter() - begin)

        def needed(passes: int) -> float:
            return looks + self.work(passes) * min(times)

        worthwhile = [p for p in PASSES if p < self.enough and p * self.steps >= FEWEST]
        fitting = (p for p in (self.enough, *worthwhile) if needed(p) <= seconds)
        return next(fitting, 0), needed(self.enough)

    def improve(self, passes: int, on_step: Callable[[int], object]) -> Tuned | None:
        """Look for better values; None if none are nearer on the validation split."""
        steps = passes * self.steps
        course = self._best_course(_trial(steps), on_step)
        while course is not None and steps:
            end = self._descend(course, steps, on_step)
            if end is not None:
                values, after = self._nearest(end, SHARES)
                better = after.change_from(self._before) < 0
                made = max(steps // self.steps, 1)
                return Tuned(values, made, course, self._before, after) if better else None
            steps, course = steps // 2, _slower(course)
        return None

    def _nearest(self, end: Arrays, shares: Sequence[float]) -> tuple[Arrays, Distance]:
        """Return what is nearest on the way to the end of a descent."""
        looks = (self._looked_at(end, share) for share in shares)
        return min(looks, key=lambda found: found[1].change_from(self._before))

    def _looked_at(self, end: Arrays, share: float) -> tuple[Arrays, Distance]:
        """Go a share of the way to the end of a descent; tell how near that is."""
        part = np.float32(share)
        between = {name: x + part * (end[name] - x) for name, x in self._start.items()}
        values = self._network.parameters.as_stored(between)
        return values, self._network.distance(values)

    def _best_course(self, steps: int, on_step: Callable[[int], object]) -> Course | None:
        """Choose by short descents: the speed, and whether copies do harm.

        None if all of them lead away.
        """
        before, changes = self._before, dict[Course, float]()

        def change(course: Course) -> float:
            if course not in changes:
                end = self._descend(course, steps, on_step)
                found = None if end is None else self._nearest(end, SHARES[:2])[1]
                changes[course] = math.inf if found is None else found.change_from(before)
            return changes[course]

        tried: list[Course] = []
        for speed in SPEEDS:
            tried.append(Course(speed, self._network.has_copies))
            if len(tried) > 1 and change(tried[-1]) > change(tried[-2]):
                break
        least = min(map(change, tried))
        best = next(course for course in tried if change(course) <= least + TIE)
        if best.copies:
            plain = replace(best, copies=False)
            best = plain if change(plain) < change(best) - HARM else best
        return best if change(best) < HOPELESS else None

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is never taken
    def _descend(
        self, course: Course, steps: int, on_step: Callable[[int], object]
    ) -> Arrays | None:
        """Follow the gradient; None if halfway it has gone astray."""
        network, rng = self._network, np.random.default_rng(self._seed)
        descent = Descent(self._start, self._scales, steps, course.speed)
        for done, feeds in enumerate(islice(self._batches(course, rng), steps), 1):
            descent.step(network.gradients(descent.values, feeds))
            on_step(1)
            if done == steps // 2 >= FEWEST:
                halfway = network.distance(descent.values).change_from(self._before)
                if halfway > LOST:
                    return None
        return descent.values

    def _batches(self, course: Course, rng: np.random.Generator) -> Iterator[list[Feed]]:
        while True:
            yield from self._network.one_pass(rng, self._together, copies=course.copies)


def _slower(course: Course) -> Course | None:
    """Return the same course at the next speed, if there is one."""
    slower = (replace(course, speed=speed) for speed in SPEEDS if speed < course.speed)
    return next(slower, None)


def _trial(steps: int) -> int:
    """Return how many steps a trial takes, of so many that follow."""
    return min(int(np.clip(TRIAL * steps, SHORTEST, LONGEST)), steps)
