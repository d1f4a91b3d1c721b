"""Widths of least error under budgets: a multiple-choice knapsack, solved by dynamic programming.

Every group takes one of its widths; the errors add up and so, nearly, do the costs. A layer costs
inputs times outputs, so what a group costs depends on its neighbours. Around given widths the costs
do separate: each group's are those of the model in which it alone changes. The programme is solved
for these, then for those around its solution, until that stays; of all widths met on the way the
best that truly fit are kept.

References
----------
H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack Problems", Springer 2004, chapter 11.
P. Sinha, A. A. Zoltners, "The multiple-choice knapsack problem", Operations Research 27 (1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.plan.allocate import Budget, Choices, fits, global_threshold, widen
from onnx_reap.plan.cost import Widths

CELLS = 4096  # that a budget is divided into where its costs are no small whole numbers
ROUNDS = 16  # of separating the costs anew
REACH = 8  # widths up and down from the present one that exchanges try
SWEEPS = 12  # over all groups for exchanges


def knapsack(choices: Sequence[Choices], budgets: Sequence[Budget]) -> Widths:
    """Minimise the sum of errors under the budgets.

    Where the costs of the groups simply add up and there is one budget, no widths that cost less
    than the budget by `groups / CELLS` of what it leaves beyond the narrowest widths have a smaller
    error; and none that fit at all if the costs are multiples of a unit of which that is at most
    `CELLS`. Where costs are coupled or budgets several this is a heuristic, never worse than
    `global_threshold`.

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
    start = global_threshold(choices, budgets)
    full = np.array([c.widths[-1] for c in choices], np.int64)
    if np.array_equal(start, full):
        return start
    problem = _Problem(choices, budgets)
    narrowest = np.zeros(len(choices), np.int64)
    begins = [problem.places(start), narrowest, problem.places(full)]
    ends = [start]
    for begin in begins:
        for end in problem.separate(begin):
            ends.append(widen(problem.widths(problem.exchange(end)), choices, budgets))
    return min(ends, key=lambda widths: problem.error(problem.places(widths)))


class _Problem:
    """Choices as arrays, shape (groups, most widths), filled up by repeating the last width.

    Widths are spoken of by their places in these, int arrays of shape (groups,).
    """

    def __init__(self, choices: Sequence[Choices], budgets: Sequence[Budget]) -> None:
        self.budgets = budgets
        self.limits = np.array([b.limit for b in budgets], float)
        most = max(len(c.widths) for c in choices)
        self.rows = np.arange(len(choices))
        self.options = np.array([np.pad(c.widths, (0, most - len(c.widths)), "edge") for c in choices])
        self.errors = np.array([np.pad(c.errors, (0, most - len(c.widths)), "edge") for c in choices])

    def widths(self, places):
        return self.options[self.rows, places]

    def places(self, widths):
        return np.argmax(self.options == widths[:, None], axis=1)

    def error(self, places):
        return float(self.errors[self.rows, places].sum())

    def fits(self, places):
        return fits(self.widths(places), self.budgets)

    def separate(self, places):
        best = []
        shares = np.ones(len(self.budgets)) / len(self.budgets)
        seen = set()
        for turn in range(ROUNDS):
            key = places.tobytes() + shares.tobytes()
            if key in seen: break
            seen.add(key)
            places, top = self.solve(places, shares)
            if self.fits(places): best.append(places)
            if len(shares) > 1:
                over = np.array([b.cost.at(self.widths(top)) for b in self.budgets]) / self.limits
                shares = shares * over ** (8 / (1 + turn)**.5)
                shares = np.maximum(shares / shares.sum(), 1e-3)
        self.turns = getattr(self, 'turns', 0) + turn
        return [min(best, key=self.error)] if best else []

    def solve(self, places, shares):
        prices = shares / self.limits
        prices /= prices.max()
        widths = self.widths(places)
        costs = sum(p * b.cost.alone(widths, self.options) for p, b in zip(prices, self.budgets, strict=True))
        now = float(costs[0, places[0]])
        extra = costs - costs.min(axis=1, keepdims=True)
        room = prices @ self.limits - now + float(extra[self.rows, places].sum())
        room = max(room, 0.0)
        unit, exact = _unit(extra, room)
        capacity = int((room + 1e-6) / unit) + (0 if exact else len(places) // 2)
        cells = np.rint(extra / unit).astype(np.int64)
        table = _Table(cells, self.errors, capacity)
        low, high = 0, capacity
        top = table.solution(capacity)
        if self.fits(top):
            return top, top
        while high - low > 1:
            middle = (low + high) // 2
            if self.fits(table.solution(middle)): low = middle
            else: high = middle
        return table.solution(low), top

    def exchange(self, places):
        """Move two groups at once, while that lowers the error."""
        places = places.copy()
        for self.sweep in range(SWEEPS):
            before = self.error(places)
            for g in self.rows:
                places = self._best_exchange(places, g)
            if self.error(places) >= before:
                break
        return places

    def _best_exchange(self, places, g):
        best, least = places, self.error(places)
        last = self.options.shape[1] - 1
        window = np.clip(places[:, None] + np.arange(-REACH, REACH + 1), 0, last)
        options = np.take_along_axis(self.options, window, 1)
        errors = np.take_along_axis(self.errors, window, 1)
        for place in np.unique(window[g]):
            trial = places.copy()
            trial[g] = place
            widths = self.widths(trial)
            ok = np.all([np.rint(b.cost.alone(widths, options)) <= b.limit for b in self.budgets], 0)
            total = errors - self.errors[self.rows, trial][:, None]
            total[~ok] = np.inf
            total[g] = np.inf
            total += self.error(trial)
            h, i = np.unravel_index(np.argmin(total), total.shape)
            if total[h, i] < least * (1 - 1e-12):
                trial[h] = window[h, i]
                best, least = trial, total[h, i]
        return best


class _Table:
    def __init__(self, cells, errors, capacity):
        self.kept, self.picks, self.cells = [], [], cells
        least = np.zeros(capacity + 1)
        for costs, error in zip(cells, errors, strict=True):
            kept = _undominated(costs, error, capacity)
            new = np.full(capacity + 1, np.inf)
            pick = np.zeros(capacity + 1, np.int32)
            for i, shift, e in zip(kept.tolist(), costs[kept].tolist(), error[kept].tolist(), strict=True):
                candidate = least[: capacity + 1 - shift] + e
                better = candidate < new[shift:]
                np.copyto(new[shift:], candidate, where=better)
                np.copyto(pick[shift:], i, where=better)
            least = new
            self.picks.append(pick)
        self.least = least

    def solution(self, cell):
        places = np.zeros(len(self.picks), np.int64)
        for g in reversed(range(len(self.picks))):
            places[g] = self.picks[g][cell]
            cell -= self.cells[g, places[g]]
        return places


def _undominated(costs, errors, capacity):
    order = np.lexsort((errors, costs))
    order = order[costs[order] <= capacity]
    before = np.minimum.accumulate(errors[order])
    return order[np.append(True, before[1:] < before[:-1])]


def _unit(extra, room):
    whole = np.rint(extra)
    if np.abs(extra - whole).max() < 1e-6:
        step = max(int(np.gcd.reduce(whole.astype(np.int64), axis=None)), 1)
        if room / step <= CELLS:
            return step, True
    return max(room / CELLS, 1e-9), False
