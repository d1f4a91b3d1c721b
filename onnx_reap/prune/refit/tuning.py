"""How a cut model is tuned as a whole: what step to take, how far to go, and whether it helped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import numpy as np

from onnx_reap.prune.refit.network import Distance, Feed, Network
from onnx_reap.prune.refit.parameters import Arrays
from onnx_reap.solve.adam import Descent

SPEEDS = (0.015, 0.005, 0.0015)  # largest steps to try, relative to the size of what moves
TRIAL = 0.1  # of all steps, for each trial
TRIALS = len(SPEEDS) + 1
CHECKS = (0.5, 0.75, 1.0)  # of the way, where the validation split is looked at
STEP = 32  # samples a step
SCORES = 0.3  # what a divergence counts at first, relative to the error behind blocks
LOST = 0.02  # of the logarithm of errors: halfway this much worse, there is nothing to wait for
STEPS = 480  # that bring nearly all there is to gain
FEWEST = 30  # that are worth a start
PASSES = (100, 80, 60, 40, 30, 20, 15, 10, 8, 6, 4, 3, 2, 1)
"""Over the training samples: few numbers, so that runs of one speed mostly agree."""


@dataclass(frozen=True)
class Tuned:
    """What tuning came to."""

    values: Arrays  # Those that came nearest to the original
    passes: int  # Over the training samples
    speed: float  # Of the largest step, relative to the size of what moves
    scores: float  # What divergences of class scores counted
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
        return max(STEPS // self.steps, 1)

    def work(self, passes: int) -> int:
        """Count the steps of so many passes, with those of trials."""
        return round(passes * self.steps * (1 + TRIALS * TRIAL))

    def affordable(self, seconds: float) -> tuple[int, float]:
        """Return how many passes fit in a time, trials included, and the time that all take.

        There are no more than bring something.
        """
        begin = perf_counter()
        self._network.distance(self._start)
        looks = (TRIALS + len(CHECKS)) * (perf_counter() - begin)
        feeds = next(self._network.one_pass(np.random.default_rng(0), self._together))
        times = []
        for _ in range(3):  # the first one warms up
            begin = perf_counter()
            self._network.gradients(self._start, feeds, 0.0)
            times.append(perf_counter() - begin)
        each = min(times) * self.steps * (1 + TRIALS * TRIAL)
        fitting = min((seconds - looks) / each, self.enough)
        passes = next((passes for passes in PASSES if passes <= fitting), 0)
        return passes if passes * self.steps >= FEWEST else 0, looks + self.enough * each

    def improve(self, passes: int, on_step: Callable[[int], object]) -> Tuned | None:
        """Look for better values; None if none are nearer on the validation split."""
        steps, before = passes * self.steps, self._before
        trial = max(round(TRIAL * steps), 1)

        def after_trial(speed: float, scores: float) -> float:
            _, found = self._descend(trial, (1.0,), speed, scores, on_step)
            return found.change_from(before)

        changes = {speed: after_trial(speed, 0.0) for speed in SPEEDS}
        speed, scores = min(SPEEDS, key=lambda each: changes[each]), 0.0
        if before.divergence:
            counted = SCORES * before.blocks / before.divergence
            scores = counted if after_trial(speed, counted) < changes[speed] else 0.0
        values, after = self._descend(steps, CHECKS, speed, scores, on_step)
        if after.change_from(before) >= 0:
            return None
        return Tuned(values, passes, speed, scores, before, after)

    def _descend(
        self,
        steps: int,
        checks: Sequence[float],
        speed: float,
        scores: float,
        on_step: Callable[[int], object],
    ) -> tuple[Arrays, Distance]:
        """Follow the gradient; return the nearest values that were looked at, and how near."""
        network, rng = self._network, np.random.default_rng(self._seed)
        descent = Descent(self._start, self._scales, steps, speed)
        looks = {max(round(share * steps), 1) for share in checks}
        best: tuple[Arrays, Distance] | None = None
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is never taken
            for done, feeds in enumerate(islice(self._batches(rng), steps), 1):
                descent.step(network.gradients(descent.values, feeds, scores))
                on_step(1)
                if done not in looks:
                    continue
                values = network.parameters.as_stored(descent.values)
                found = network.distance(values)
                change = found.change_from(self._before)
                if best is None or found.change_from(best[1]) < 0:
                    best = values, found
                if change > LOST:
                    break
        assert best is not None
        return best

    def _batches(self, rng: np.random.Generator) -> Iterator[list[Feed]]:
        while True:
            yield from self._network.one_pass(rng, self._together)
