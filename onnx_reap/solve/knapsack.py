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

from onnx_reap.solve.allocation import (
    Budget,
    Choices,
    each_fits,
    fits,
    global_threshold,
    tabulate,
    widen,
)
from onnx_reap.solve.cost import Widths

CELLS = 4096  # of a budget whose costs are no small whole numbers
REACH = 8  # places up and down from a solution that are looked at to better it
SEPARATIONS = 6  # of the costs, and rounds of exchanges, at most
WEIGHTINGS = 4  # of several budgets, in every round
NOISE = 1e-3  # of float arithmetic on costs, which are whole numbers of up to 1e13

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def knapsack(choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    """Minimise the sum of errors under the budgets.

    The slack is the budget minus the cost of the narrowest widths. With one budget and costs that
    add up, the result is the optimum if the slack is at most `CELLS` times a number that divides
    all costs; otherwise it is at least as good as any widths that leave `groups / CELLS` of the
    slack unspent. Where costs are coupled, or there are several budgets, it is never worse than
    the result of `global_threshold`.

    Returns
    -------
    (groups,) int array
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

    def widths(self, places: Ints) -> Widths:
        return np.asarray(self.options[self.groups, places])

    def places(self, widths: Widths) -> Ints:
        return np.asarray(np.argmax(self.options == widths[:, None], axis=1))

    def error(self, places: Ints) -> float:
        return float(self.errors[self.groups, places].sum())

    def near(self, places: Ints, reach: int) -> Ints:
        """List the places at most `reach` away, (groups, k); near an end more, and repeatedly."""
        first = np.maximum(places - reach, 0)[:, None]
        last = self.options.shape[1] - 1
        result: Ints = np.minimum(first + np.arange(min(2 * reach, last) + 1), last)
        return result

    def descend(self, places: Ints) -> Ints:
        """Solve for costs separated around the best widths so far, while these get better."""
        # Among few widths near by, cells are finer and the separated costs truer.
        for reach in (self.options.shape[1], REACH):
            for _ in range(SEPARATIONS):
                found = self.solve(places, self.near(places, reach))
                if self.error(found) >= self.error(places):
                    break
                places = found
        return places

    def solve(self, places: Ints, near: Ints) -> Ints:
        """Return the best of widths `near`, with costs separated around `places`, or `places`."""
        options = np.take_along_axis(self.options, near, axis=1)
        errors = np.take_along_axis(self.errors, near, axis=1)
        costs = np.array([b.cost.alone(self.widths(places), options) for b in self.budgets])
        limits = np.array([max(b.limit, 1) for b in self.budgets], np.float64)
        here = costs[:, self.groups, np.argmax(near == places[:, None], axis=1)]
        least = costs.min(axis=2)
        # A group that keeps its width leaves the cost as it is: any column of `here` is that cost.
        rooms = limits - here[:, 0] + (here - least).sum(axis=1)
        best = places
        weighting = _Weighting(len(self.budgets))
        while (weights := weighting.next()) is not None:
            prices = weights / limits
            prices /= prices.max()  # a single budget keeps its whole numbers
            extra = np.tensordot(prices, costs - least[:, :, None], 1)
            table = _Table(extra, errors, max(float(prices @ rooms), 0.0))
            found, used = self.widest_that_fit(table, near)
            weighting.learn(used)
            best = min(best, found, key=self.error)
        return best

    def widest_that_fit(self, table: _Table, near: Ints) -> tuple[Ints, Floats]:
        """Return the solution for most cells that meets all budgets, the narrowest if none does.

        Returns
        -------
        places : (groups,) int array
        used : (budgets,) float array
            What the solution for all cells costs, as a fraction of every budget.
        """
        trial = near[self.groups, table.solution(table.cells)]
        used = np.array([b.cost.at(self.widths(trial)) / max(b.limit, 1) for b in self.budgets])
        if np.all(used <= 1):
            return trial, used
        best = np.zeros_like(trial)
        fitting, too_many = -1, table.cells
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            trial = near[self.groups, table.solution(middle)]
            if fits(self.widths(trial), self.budgets):
                fitting, best = middle, trial
            else:
                too_many = middle
        return best, used

    def exchange(self, places: Ints) -> Ints:
        """Move pairs of groups near by, at true costs, while that lowers the error."""
        for _ in range(SEPARATIONS):
            before = self.error(places)
            for group in range(len(places)):
                places = self.best_pair(places, group)
            if self.error(places) >= before:
                break
        return places

    def best_pair(self, places: Ints, group: int) -> Ints:
        """Move `group`, and one other to where the error is least."""
        near = self.near(places, REACH)
        options = np.take_along_axis(self.options, near, axis=1)
        errors = np.take_along_axis(self.errors, near, axis=1)
        best = places
        for place in np.unique(near[group]):
            trial = places.copy()
            trial[group] = place
            change = errors - self.errors[self.groups, trial][:, None]
            change[group] = np.inf
            change[~each_fits(self.widths(trial), options, self.budgets)] = np.inf
            other, column = np.unravel_index(np.argmin(change), change.shape)
            if np.isfinite(change[other, column]):
                trial[other] = near[other, column]
                best = min(best, trial, key=self.error)
        return best


class _Weighting:
    """Weights that make several budgets one: each budget alone, then ever smaller corrections."""

    def __init__(self, budgets: int) -> None:
        self.budgets, self.turn, self.enough = budgets, 0, False
        self.exponents = np.zeros(budgets)

    def next(self) -> Floats | None:
        """Return the next weights to try, shape (budgets,), or None to stop."""
        if self.enough or self.turn == self.budgets + WEIGHTINGS:
            return None
        self.turn += 1
        alone = self.turn <= self.budgets
        return np.eye(self.budgets)[self.turn - 1] if alone else 2.0**self.exponents

    def learn(self, used: Floats) -> None:
        """Take in what the solution for the last weights costs, as a fraction of every budget."""
        if self.turn <= self.budgets:
            self.enough = bool(np.all(np.delete(used, self.turn - 1) <= 1))  # others don't bind
        else:
            self.exponents[np.argmax(used)] += 8 / 2 ** (self.turn - self.budgets)


class _Table:
    """Least error for every number of cells spent, by group: the dynamic programme.

    Parameters
    ----------
    extra : (groups, k) float array
        Cost of each width beyond its group's cheapest.
    room : float
        Most that the extra costs may add up to, at least 0.

    Attributes
    ----------
    cells : int
        Most cells that the table goes to. Costs are rounded to the nearest cell, either way, so
        that widths that fit may take half a cell for every group more than the budget has.
    """

    def __init__(self, extra: Floats, errors: Floats, room: float) -> None:
        unit, spare = _common_unit(extra), 0
        if not unit or room > unit * CELLS:
            unit, spare = max(room, NOISE) / CELLS, (len(extra) + 1) // 2
        self.cells = int((room + NOISE) / unit) + spare
        self._groups = []
        least, buffer = np.zeros(self.cells + 1), np.empty(self.cells + 1)
        for costs, error in zip(np.rint(extra / unit).astype(np.int64), errors, strict=True):
            kept = _undominated(costs, error, self.cells)
            self._groups.append((kept, costs[kept], error[kept], least))
            wider = np.full_like(least, np.inf)
            for cost, each in zip(costs[kept].tolist(), error[kept].tolist(), strict=True):
                sums = np.add(least[: len(least) - cost], each, out=buffer[cost:])
                np.minimum(wider[cost:], sums, out=wider[cost:])
            least = wider

    def solution(self, cells: int) -> Ints:
        """Return the columns, shape (groups,), of least error that take at most so many cells."""
        columns = np.zeros(len(self._groups), np.int64)
        for group in reversed(range(len(self._groups))):
            kept, costs, errors, least = self._groups[group]
            possible = int(np.searchsorted(costs, cells, side="right"))
            best = int(np.argmin(least[cells - costs[:possible]] + errors[:possible]))
            columns[group] = kept[best]
            cells -= int(costs[best])
        return columns


def _undominated(costs: Ints, errors: Floats, most: int) -> Ints:
    """List the widths that cost at most `most` and have a smaller error than all cheaper ones."""
    order = np.lexsort((errors, costs))
    order = order[costs[order] <= most]
    least = np.minimum.accumulate(errors[order])
    return np.asarray(order[np.append(True, least[1:] < least[:-1])])


def _common_unit(costs: Floats) -> float:
    """Return the greatest whole number that divides all costs, 0 if there is none."""
    whole = np.rint(costs)
    if np.abs(costs - whole).max() > NOISE:
        return 0.0
    return float(max(np.gcd.reduce(whole.astype(np.int64), axis=None), 1))
