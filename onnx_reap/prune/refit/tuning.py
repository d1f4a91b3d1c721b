"""How a cut model is tuned as a whole: which step size, how far to go, and whether it helped."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

import numpy as np

from onnx_reap.prune.refit.descent import SHARES, points
from onnx_reap.prune.refit.network import Distance, Network
from onnx_reap.prune.refit.parameters import Arrays
from onnx_reap.prune.refit.side_by_side import Feed
from onnx_reap.solve.descent import Descent

STEP_SIZES = (0.015, 0.005, 0.0015, 0.0005)
"""Largest steps to choose from, relative to the size of what moves."""

ENOUGH_STEPS, ENOUGH_PASSES = 5000, 100
"""Steps that bring nearly all there is to gain, and passes over few samples that do."""

FRACTIONS = (1, 0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01)
"""Of these, as time allows. Few numbers, so that runs of one speed mostly agree."""

FEWEST_STEPS = 30
"""That are worth a start."""

# Short descents choose how the long one goes. They show the noise of large steps and of copies
# above all at their ends; the long one averages it out.
SHORT, SHORTEST, LONGEST = 0.06, 15, 80
"""Steps of a short descent: of all that follow, at least, at most."""

MOST_SHORT = 5
"""Short descents at most: one for each step size, and one without copies."""

NEARLY_AS_GOOD = 0.03
"""Of the logarithm of errors: the largest steps are taken of those that come so near the best."""

COPIES_HARM = 0.1
"""Of the logarithm of errors: copies that come out so much worse are left out."""

WORSE_IN_SHORT, WORSE_HALFWAY = 0.1, 0.5
"""Of the logarithm of errors: a descent that has become so much worse is given up."""

TIMED = 3
"""Steps whose time foretells that of the others, after a first one."""


@dataclass(frozen=True)
class Schedule:
    """How parameters descend."""

    step_size: float  # The largest one, relative to the size of what moves
    augmented: bool  # Whether random copies of the samples stand in for them


@dataclass(frozen=True)
class End:
    """What a descent led to."""

    values: Arrays
    steps: int  # That were taken


@dataclass(frozen=True)
class Tuned:
    """What tuning came to."""

    values: Arrays  # Parameters that came nearest to the original
    passes: float  # Over the training samples, of the descent that found them
    schedule: Schedule  # Of this descent
    # On the validation split
    before: Distance
    after: Distance


class Tuning:
    """Tunes a network.

    Parameters
    ----------
    seed : int
        Of the order of samples.
    zeros_stay : bool
        Whether weights that are zero remain so.
    """

    def __init__(self, network: Network, seed: int, *, zeros_stay: bool) -> None:
        self._network, self._seed = network, seed
        self._sizes = network.step_sizes(zeros_stay=zeros_stay)
        self._start, self._before = network.values, network.before
        self._best: Tuned | None = None
        self._until = math.inf

    @property
    def steps_per_pass(self) -> int:
        """Steps of a pass over the training samples."""
        return -(-self._network.batches // self._network.together)

    @property
    def enough(self) -> int:
        """Steps that bring nearly all there is to gain."""
        return min(ENOUGH_STEPS, ENOUGH_PASSES * self.steps_per_pass)

    def work(self, steps: int) -> int:
        """Count the steps of a descent with those of the short ones before it."""
        return steps + MOST_SHORT * _short(steps)

    def affordable(self, seconds: float) -> tuple[int, float]:
        """Return how many steps fit in a time, and the seconds that enough would take.

        Short descents are included. 0 where too few fit to bring something.
        """
        batches, descent = self._batches(Schedule(0.0, augmented=True)), self._new_descent(1, 0.0)
        times: list[float] = []
        # The first one warms up, and may show that there is no time.
        while not times or (len(times) <= TIMED and sum(times) * FEWEST_STEPS < seconds):
            begin = perf_counter()
            descent.step(self._network.gradients(self._start, next(batches)))
            times.append(perf_counter() - begin)
        begin = perf_counter()
        self._network.distance(self._start)
        looks = (2 * MOST_SHORT + 1 + len(SHARES)) * (perf_counter() - begin)
        step = float(np.median(times[1:] or times))

        def needed(steps: int) -> float:
            return looks + self.work(steps) * step

        counts = [round(fraction * self.enough) for fraction in FRACTIONS]
        fitting = (steps for steps in counts if needed(steps) <= seconds)
        found = next(fitting, 0)
        return found if found >= min(FEWEST_STEPS, self.enough) else 0, needed(self.enough)

    def _new_descent(self, steps: int, step_size: float) -> Descent:
        sizes = self._sizes
        for_all = self._network.for_all
        return Descent(self._start, sizes.scales, steps, step_size, sizes.matrices, for_all)

    def improve(
        self, steps: int, on_step: Callable[[int], object], until: float = math.inf
    ) -> Tuned | None:
        """Look for better parameters; None if none are nearer on the validation split.

        Parameters
        ----------
        until : float
            Of `perf_counter`: from then on no step is taken.
        """
        self._until = until
        schedule = self._best_schedule(_short(steps), on_step)
        while schedule is not None and steps:
            end = self._descend(schedule, steps, on_step)
            if end is not None:
                self._nearest(schedule, end, SHARES)
                break
            steps, schedule = steps // 2, _smaller(schedule)
        return self._best

    def _nearest(self, schedule: Schedule, end: End, shares: Sequence[float]) -> float:
        """Look at points on the way to the end of a descent; return the least change of errors.

        The best of all points is kept.
        """
        least, as_stored = math.inf, self._network.parameters.as_stored
        for values in points(self._start, end.values, as_stored, shares):
            after = self._network.distance(values)
            best = self._before if self._best is None else self._best.after
            if after.change_from(best) < 0 and after.keeps_outputs(self._before):
                passes = round(end.steps / self.steps_per_pass, 2)
                self._best = Tuned(values, passes, schedule, self._before, after)
            least = min(least, after.change_from(self._before))
        return least

    def _best_schedule(self, steps: int, on_step: Callable[[int], object]) -> Schedule | None:
        """Choose the step size, and whether copies do harm, by short descents.

        None if all of them lead away.
        """
        changes = dict[Schedule, float]()

        def change(schedule: Schedule) -> float:
            if schedule not in changes:
                end = self._descend(schedule, steps, on_step)
                changes[schedule] = (
                    math.inf if end is None else self._nearest(schedule, end, SHARES[:2])
                )
            return changes[schedule]

        compared: list[Schedule] = []
        for size in STEP_SIZES:
            compared.append(Schedule(size, self._network.has_copies))
            if len(compared) > 1 and change(compared[-1]) > change(compared[-2]):
                break
        least = min(map(change, compared))
        best = next(each for each in compared if change(each) <= least + NEARLY_AS_GOOD)
        if best.augmented:
            plain = replace(best, augmented=False)
            best = plain if change(plain) < change(best) - COPIES_HARM else best
        return best if change(best) < WORSE_IN_SHORT else None

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite is never taken
    def _descend(
        self, schedule: Schedule, steps: int, on_step: Callable[[int], object]
    ) -> End | None:
        """Follow the gradient; None if halfway errors have become far larger."""
        network = self._network
        descent = self._new_descent(steps, schedule.step_size)
        for done, feeds in enumerate(islice(self._batches(schedule), steps), 1):
            if perf_counter() > self._until:
                return End(descent.values, done - 1)
            descent.step(network.gradients(descent.values, feeds))
            on_step(1)
            if done == steps // 2 >= FEWEST_STEPS:
                halfway = network.distance(descent.values).change_from(self._before)
                if halfway > WORSE_HALFWAY:
                    return None
        return End(descent.values, steps)

    def _batches(self, schedule: Schedule) -> Iterator[list[Feed]]:
        rng = np.random.default_rng(self._seed)
        while True:
            yield from self._network.one_pass(rng, copies=schedule.augmented)


def _smaller(schedule: Schedule) -> Schedule | None:
    """Return the same schedule with the next smaller steps, if there are some."""
    smaller = (replace(schedule, step_size=s) for s in STEP_SIZES if s < schedule.step_size)
    return next(smaller, None)


def _short(steps: int) -> int:
    """Return how many steps a short descent takes before one of so many."""
    return min(int(np.clip(SHORT * steps, SHORTEST, LONGEST)), steps)
