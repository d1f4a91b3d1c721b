"""The smallest model within a loss, found by tries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from onnx_reap.errors import TargetError
from onnx_reap.measure.accuracy_loss import EstimatedLoss, LossEstimator
from onnx_reap.prune.apply import Made, make
from onnx_reap.prune.context import Work
from onnx_reap.prune.decide import decide
from onnx_reap.prune.goal import Goal
from onnx_reap.prune.pruning_curves import Evidence
from onnx_reap.prune.refit.blockwise import passes_over
from onnx_reap.solve.allocation import Budget, cheapest, fits

FIRST = 0.12  # of the cost, removed by the first try
LEAST = 0.01  # of the cost: if even this can't go, nothing can
DEEPEST = 0.8  # of the cost: no search goes further
NEAR = 1.08  # removing this many times as much would fail: near enough
TRIES = 8

T = TypeVar("T")


def smallest_within_drop(
    work: Work, goal: Goal, evidence: Evidence, estimate: LossEstimator
) -> tuple[Made, EstimatedLoss]:
    """Find the smallest model whose loss stays within `goal.max_drop`, as far as it is known.

    Every try is made, refit included; moments, removal paths and sensitivities are those of the
    first. Blocks are refitted together in the last model only: that takes long, and what it wins
    is a margin for samples that were not tried.

    Raises
    ------
    TargetError
        If the budgets, or the least that can be removed, already cost more.
    """
    assert goal.max_drop is not None
    bound = goal.max_drop
    worst: list[EstimatedLoss] = []
    asked = _removed_by(goal, work)
    reachable = most_removable([c.widths for c in evidence.choices], work)

    def attempt(share: float) -> tuple[Made, EstimatedLoss] | None:
        made = make(work, decide(work, with_share(goal, work, share), evidence), joint=False)
        with work.clock("search"):
            drop = estimate(made.model)
        if drop.value <= bound:
            return made, drop
        worst.append(drop)
        return None

    found = _furthest(attempt, max(asked, LEAST), reachable, given=asked > 0)
    if found is None:
        raise TargetError(
            "--max-drop: can't be kept",
            got=f"{worst[-1].value:.2%} {worst[-1].kind} at {max(asked, LEAST):.1%} fewer MACs",
            expected=f"at most {bound:.2%}",
            hint="allow more, bring more data, or name a budget such as --target-macs alone",
        )
    return _with_blocks(work, *found, bound, estimate)


def _with_blocks(
    work: Work, tried: Made, drop: EstimatedLoss, bound: float, estimate: LossEstimator
) -> tuple[Made, EstimatedLoss]:
    """Refit the blocks of a model that was tried, unless more than the bound is lost then."""
    settings, samples = work.settings, work.samples.fit
    if not settings.refit or not samples or not passes_over(settings, tried.macs, samples):
        return tried, drop
    made = make(work, tried.choice)
    with work.clock("search"):
        after = estimate(made.model)
    if after.value <= bound:
        return made, after
    note = "blocks were not refitted together: more would be lost than --max-drop allows"
    return replace(tried, notes=(*tried.notes, note)), drop


def scouted(work: Work, goal: Goal) -> Goal:
    """Return a goal whose evidence reaches as far as a search will go."""
    if goal.latency is None and goal.max_drop is None:
        return goal
    return with_share(goal, work, min(most_removable(goal.widths, work), DEEPEST))


def with_share(goal: Goal, work: Work, share: float) -> Goal:
    """Add the budget that a share of the multiply-accumulates goes."""
    full = np.array([group.width for group in work.analysis.groups])
    limit = math.ceil((1 - share) * work.analysis.macs.at(full)) + 1  # shares are rounded
    budget = Budget("--target-macs", work.analysis.macs, limit)
    return replace(goal, budgets=(*goal.budgets, budget))


def most_removable(widths: Sequence[np.ndarray], work: Work) -> float:
    """Return the share of the multiply-accumulates that the cheapest widths leave out."""
    macs = work.analysis.macs
    least = macs.at(cheapest(widths, [Budget("--target-macs", macs, 1)]))
    return 1 - least / max(macs.at(np.array([w[-1] for w in widths])), 1)


def _removed_by(goal: Goal, work: Work) -> float:
    """Return the share of the multiply-accumulates that the budgets take at least."""
    full = np.array([group.width for group in work.analysis.groups])
    if fits(full, goal.budgets):
        return 0.0
    return max(
        (
            1 - b.limit / max(b.cost.at(full), 1)
            for b in goal.budgets
            if b.cost is work.analysis.macs
        ),
        default=LEAST,
    )


def _furthest(
    attempt: Callable[[float], T | None], least: float, most: float, *, given: bool
) -> T | None:
    """Find the largest share that an attempt accepts, supposing that all smaller ones are, too.

    Parameters
    ----------
    least, most : float
        Shares between which to look.
    given : bool
        Whether `least` must be accepted anyway: it is tried first then.
    """
    best: T | None = None
    good, bad = 0.0, float("inf")
    share = least if given else min(max(FIRST, least), most)
    for _ in range(TRIES):
        found = attempt(share)
        if found is not None:
            best, good = found, share
        else:
            bad = share
        if good >= most or bad <= least or (good and bad <= NEAR * good):
            break
        share = min(2 * good, most) if bad == float("inf") else (good + bad) / 2
        share = max(share, least)
    return best
