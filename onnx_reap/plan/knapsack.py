"""Widths of least error under budgets: a multiple-choice knapsack, solved by dynamic programming.

Every group takes one of its widths; the errors add up and so, nearly, do the costs. A layer costs
inputs times outputs, so what a group costs depends on its neighbours. Around given widths the costs
do separate: each group's are those of the model in which it alone changes. The programme

    least_g(c) = min over widths v of  least_(g-1)(c - cost_g(v)) + error_g(v)

is solved for these costs, c in cells of the budget, then for those around its solution, as long as
that gets better. Several budgets are weighted into one, which the solutions themselves correct.

References
----------
H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack Problems", Springer 2004, chapter 11.
P. Sinha, A. A. Zoltners, "The multiple-choice knapsack problem", Operations Research 27 (1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.plan.allocate import (
    Budget,
    Choices,
    each_fits,
    fits,
    global_threshold,
    tabulate,
    widen,
)
from onnx_reap.plan.cost import Widths

CELLS = 4096  # of a budget whose costs are no small whole numbers
REACH = 8  # places up and down from a solution that are looked at to better it
ROUNDS = 8  # of separating the costs anew
WEIGHTINGS = 6  # of several budgets, in every round

Places = npt.NDArray[np.int64]


def knapsack(choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    """Minimise the sum of errors under the budgets.

    With one budget and costs that just add up, the result is the optimum if they are multiples of a
    unit of which the budget, beyond what the narrowest widths cost, holds at most `CELLS`. Else it
    is at least as good as all widths that leave `groups / CELLS` of that amount unspent. Where costs
    are coupled, or budgets several, it is a good solution, never worse than `global_threshold`.

    Parameters
    ----------
    choices : sequence of Choices
        By group.
    budgets : sequence of Budget
        All of them are met.

    Returns
    -------
    (groups,) int array

    Raises
    ------
    TargetError
        If even the narrowest widths cost more.
    """
    threshold = global_threshold(choices, budgets)
    problem = _Problem(choices, budgets)
    places = problem.places(threshold)
    if not problem.error(places):
        return threshold
    # Coupled costs have several fixed points; from below others are found than from nearby.
    ends = [problem.descend(start) for start in (places, np.zeros_like(places))]
    best = problem.exchange(min(ends, key=problem.error))
    return widen(problem.widths(best), choices, budgets)


class _Problem:
    """Choices as arrays; widths are spoken of by their places in these, shape (groups,)."""

    def __init__(self, choices: Sequence[Choices], budgets: Sequence[Budget]) -> None:
        self.options, self.errors = tabulate(choices)
        self.groups = np.arange(len(choices))
        self.budgets = budgets
        self.limits = np.array([b.limit for b in budgets], np.float64)
        self.weights = np.ones(len(budgets))

    def widths(self, places: Places) -> Widths:
        return np.asarray(self.options[self.groups, places])

    def places(self, widths: Widths) -> Places:
        return np.argmax(self.options == widths[:, None], axis=1)

    def error(self, places: Places) -> float:
        return float(self.errors[self.groups, places].sum())

    def fits(self, places: Places) -> bool:
        return fits(self.widths(places), self.budgets)

    def near(self, places: Places, reach: int) -> npt.NDArray[np.int64]:
        """List the places at most `reach` away, (groups, k); the same one may come repeatedly."""
        first = np.clip(places - reach, 0, None)[:, None]
        last = self.options.shape[1] - 1
        return np.minimum(first + np.arange(min(2 * reach, last) + 1), last)

    def descend(self, places: Places) -> Places:
        """Solve for costs separated around the best widths so far, while these get better."""
        # Among few widths near by, cells are finer and the separated costs truer.
        for reach in (self.options.shape[1], REACH):
            for _ in range(ROUNDS):
                found = self.solve(places, self.near(places, reach))
                if self.error(found) >= self.error(places):
                    break
                places = found
        return places

    def solve(self, places: Places, near: npt.NDArray[np.int64]) -> Places:
        """Return the best widths among `near`, for costs separated around `places`, or `places`."""
        options = np.take_along_axis(self.options, near, axis=1)
        errors = np.take_along_axis(self.errors, near, axis=1)
        widths = self.widths(places)
        costs = np.array([b.cost.alone(widths, options) for b in self.budgets])
        here = costs[:, self.groups, np.argmax(near == places[:, None], axis=1)]
        # A group that keeps its width costs what all cost now, so any entry here is the present cost.
        rooms = self.limits - here[:, 0] + (here - costs.min(axis=2)).sum(axis=1)
        costs = costs - costs.min(axis=2, keepdims=True)
        best, exponents = places, np.zeros(len(self.budgets))
        alone = list(np.eye(len(self.budgets)))
        for turn in range(len(alone) + WEIGHTINGS):
            weights = alone[turn] if turn < len(alone) else 2.0**exponents
            prices = weights / self.limits
            prices /= prices.max()
            table = _Table(np.tensordot(prices, costs, 1), errors, float(prices @ rooms))
            widest, found = self.largest_fitting(table, near)
            if found is not None and self.error(found) < self.error(best):
                best = found
            over = np.array([b.cost.at(self.widths(widest)) / b.limit for b in self.budgets])
            if turn < len(alone):
                if np.all(over[weights == 0] <= 1):  # no other budget matters
                    break
            else:
                exponents[int(np.argmax(over))] += 8 / 2.0 ** (turn - len(alone) + 1)
        return best

    def largest_fitting(self, table, near):
        widest = near[self.groups, table.solution(table.cells)]
        if self.fits(widest):
            return widest, widest
        low, high, best = 0, table.cells, None
        while high - low > 1:
            middle = (low + high) // 2
            trial = near[self.groups, table.solution(middle)]
            if self.fits(trial):
                low, best = middle, trial
            else:
                high = middle
        return widest, best

    def exchange(self, places: Places) -> Places:
        """Move pairs of groups near by, at true costs, while that lowers the error."""
        for _ in range(ROUNDS):
            before = self.error(places)
            for group in self.groups:
                places = self.best_pair(places, group)
            if self.error(places) >= before:
                break
        return places

    def best_pair(self, places: Places, group: int) -> Places:
        """Move `group`, and another one to where the error is least."""
        near = self.near(places, REACH)
        options = np.take_along_axis(self.options, near, axis=1)
        errors = np.take_along_axis(self.errors, near, axis=1)
        best, least = places, self.error(places)
        for place in np.unique(near[group]):
            trial = places.copy()
            trial[group] = place
            change = errors - self.errors[self.groups, trial][:, None]
            change[group] = 0
            options[group] = self.options[group, place]
            change[~each_fits(self.widths(trial), options, self.budgets)] = np.inf
            other, column = np.unravel_index(np.argmin(change), change.shape)
            trial[other] = near[other, column] if other != group else place
            if np.isfinite(change[other, column]) and self.error(trial) < least:
                best, least = trial, self.error(trial)
        return best


class _Table:
    def __init__(self, extra, errors, room: float) -> None:
        room = max(room, 0.0)
        unit, exact = _unit(extra, room)
        # Rounding to the nearest cell goes either way, so what fits may lie above the budget's cell.
        self.cells = int((room + 1e-6) / unit) + (0 if exact else (len(extra) + 1) // 2)
        self.steps = []
        least = np.zeros(self.cells + 1)
        room_for = np.empty_like(least)
        for costs, error in zip(np.rint(extra / unit).astype(np.int64), errors, strict=True):
            kept = _undominated(costs, error, self.cells)
            self.steps.append((kept, costs[kept], error[kept], least))
            new = np.full_like(least, np.inf)
            for cost, each in zip(costs[kept].tolist(), error[kept].tolist(), strict=True):
                sums = np.add(least[: len(least) - cost], each, out=room_for[cost:])
                np.minimum(new[cost:], sums, out=new[cost:])
            least = new

    def solution(self, cell):
        columns = np.zeros(len(self.steps), np.int64)
        for g, (kept, costs, errors, least) in reversed(list(enumerate(self.steps))):
            affordable = int(np.searchsorted(costs, cell, "right"))
            best = int(np.argmin(least[cell - costs[:affordable]] + errors[:affordable]))
            columns[g] = kept[best]
            cell -= int(costs[best])
        return columns


def _undominated(costs, errors, most):
    order = np.lexsort((errors, costs))
    order = order[costs[order] <= most]
    before = np.minimum.accumulate(errors[order])
    return order[np.append(True, before[1:] < before[:-1])]


def _unit(extra, room):
    whole = np.rint(extra)
    if np.abs(extra - whole).max() < 1e-6:
        step = max(int(np.gcd.reduce(whole.astype(np.int64), axis=None)), 1)
        if room / step <= CELLS:
            return step, True
    return max(room / CELLS, 1e-9), False
