"""Training one block by gradient descent; the validation split decides how far to go."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Protocol

import numpy as np

from onnx_reap.measure.autodiff.backward import Comparison, Trainer
from onnx_reap.prune.refit.descent import points
from onnx_reap.prune.refit.side_by_side import Feed, SideBySide
from onnx_reap.prune.refit.step_sizes import StepSizes
from onnx_reap.solve.descent import Descent

Arrays = Mapping[str, np.ndarray]

STEP_SIZE = 0.03  # largest step, relative to a tensor's scale
EXACT = 1e-9  # errors below this, relative to the variance, are rounding
# Steps, of all, whose mean foretells the end: where no share of the way there gains so much, a
# block is left. The steps themselves are too large by then to tell.
EARLY = (0.3, 0.4)
LEAST_GAIN = 0.01  # of the error
TIMED, TIMING = 5, 0.3  # steps and seconds at most that tell how long the others take
FEWEST_AVERAGED = 10  # steps whose mean is taken


class Batches(Protocol):
    """Arrays by batch, in memory or not."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Arrays: ...


@dataclass(frozen=True)
class BlockProblem:
    """What a block receives, and what it is to make of it."""

    given: Batches
    wanted: Batches
    # So many batches come first and are fitted; the others, one at least, are the validation split
    fitting: int
    together: int = 1  # Batches whose mean gradient makes a step


class Training:
    """Trains on the batches of a problem.

    Parameters
    ----------
    trainer : Trainer
        Of the error.
    comparison : Comparison
        Gives the error itself.
    fixed : mapping of str to array
        What else both are fed.
    """

    def __init__(
        self,
        trainer: Trainer,
        comparison: Comparison,
        fixed: Arrays,
        problem: BlockProblem,
        providers: Sequence[str],
    ) -> None:
        self._trainer, self._fixed, self._problem = trainer, fixed, problem
        self._side_by_side = SideBySide(providers, problem.together)
        self._run_backward = self._side_by_side.runner(trainer.model, [*trainer.gradients.values()])
        self._run_forward = self._side_by_side.runner(
            comparison.model, [*comparison.errors.values()]
        )

    def improve(
        self,
        start: Arrays,
        sizes: StepSizes,
        passes: float,
        rng: np.random.Generator,
        as_stored: Callable[[Arrays], Arrays] = lambda values: values,
    ) -> tuple[Arrays, float, float]:
        """Look for better parameters.

        Parameters
        ----------
        sizes : StepSizes
        passes : float
            Over the batches that are fitted.
        as_stored : callable
            Rounds parameters as they will be.
        """
        before = self._error(start)
        if before < EXACT:
            return start, before, before

        def best(end: Arrays) -> tuple[Arrays, float]:
            found, least = start, before
            for between in points(start, end, as_stored):
                if (error := self._error(between)) < least:
                    found, least = between, error
            return found, least

        steps = math.ceil(passes * self._steps)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is never taken
            end = self._descend(
                self._new_descent(start, sizes, steps, STEP_SIZE),
                steps,
                rng,
                lambda mean: best(mean)[1] < (1 - LEAST_GAIN) * before,
            )
            found, after = best(end)
        return found, before, after

    def seconds(self, start: Arrays, sizes: StepSizes) -> float:
        """Time a pass by the quickest of a few steps: first ones wait for memory, and for data."""
        batches = range(min(self._problem.together, self._problem.fitting))
        descent = self._new_descent(start, sizes, 1, 0.0)
        self._gradients(start, batches)
        times: list[float] = []
        while len(times) < TIMED and sum(times) < TIMING:
            begin = perf_counter()
            descent.step(self._gradients(start, batches))
            times.append(perf_counter() - begin)
        return min(times) * self._steps

    def _new_descent(
        self, start: Arrays, sizes: StepSizes, steps: int, step_size: float
    ) -> Descent:
        for_all = self._side_by_side.for_all
        return Descent(start, sizes.scales, steps, step_size, sizes.matrices, for_all)

    @property
    def _steps(self) -> int:
        """How many steps a pass takes."""
        return -(-self._problem.fitting // self._problem.together)

    def _descend(
        self,
        descent: Descent,
        steps: int,
        rng: np.random.Generator,
        promises: Callable[[Arrays], bool],
    ) -> Arrays:
        """Take all steps, unless the mean of what the first ones led to promises nothing."""
        first, last = (round(share * steps) for share in EARLY)
        sums = {name: np.zeros_like(x) for name, x in descent.values.items()}
        for taken, batches in enumerate(islice(self._in_random_order(rng), steps), 1):
            descent.step(self._gradients(descent.values, batches))
            if first < taken <= last:
                sums = {name: sums[name] + x for name, x in descent.values.items()}
            if taken == last >= first + FEWEST_AVERAGED:
                mean = {name: x / np.float32(last - first) for name, x in sums.items()}
                if not promises(mean):
                    return mean
        return descent.values

    def _in_random_order(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """Yield the batches of each step, pass after pass."""
        while True:
            order = rng.permutation(self._problem.fitting)
            yield from (part.tolist() for part in np.array_split(order, self._steps))

    def _gradients(self, values: Arrays, batches: Sequence[int]) -> Arrays:
        """Add up the gradients of batches, of which only the direction counts."""
        totals: dict[str, np.ndarray] = {}
        for found in self._results(self._run_backward, values, batches):
            for name, gradient in self._trainer.gradients.items():
                add = found[gradient]
                totals[name] = totals[name] + add if name in totals else add
        return totals

    def _error(self, values: Arrays) -> float:
        """Return the error on the validation batches, of which the last may be a short one."""
        problem, name = self._problem, next(iter(self._trainer.targets))
        judging = range(problem.fitting, len(problem.given))
        found = self._results(self._run_forward, values, judging)
        total = sum(float(error) for errors in found for error in errors.values())
        sizes = [len(problem.wanted[index][name]) for index in judging]
        return total / (sum(sizes) / len(problem.wanted[0][name]))

    def _results(
        self, model: Callable[[Feed], Arrays], values: Arrays, batches: Iterable[int]
    ) -> Iterator[Arrays]:
        """Run a model on batches."""

        def result(index: int) -> Arrays:
            wanted = self._problem.wanted[index]
            targets = {fed: wanted[name] for name, fed in self._trainer.targets.items()}
            return model({**self._problem.given[index], **targets, **self._fixed, **values})

        return self._side_by_side.over(result, batches)
