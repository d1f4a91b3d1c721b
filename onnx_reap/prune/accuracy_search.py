"""The smallest model within a loss, found by tries."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from onnx_reap.data.split import HELD_OUT, divided
from onnx_reap.errors import TargetError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.accuracy_loss import EstimatedLoss, LossEstimator, least_provable_loss
from onnx_reap.options import DEFAULT_TARGET_MACS
from onnx_reap.prune.apply import Pruned, apply_choice
from onnx_reap.prune.budgets import MACS
from onnx_reap.prune.context import Run
from onnx_reap.prune.decide import decide
from onnx_reap.prune.form import Choice
from onnx_reap.prune.goal import Goal
from onnx_reap.prune.pruning_curves import PruningCurves
from onnx_reap.solve.allocation import Budget, cheapest, fits
from onnx_reap.solve.cost import Cost

FIRST = 0.12  # of the cost, removed by the first try
LEAST = 0.01  # of the cost: if even this can't go, nothing can
MOST_REMOVED = 0.8  # of the cost: no search goes further
NEAR = 1.08  # removing this many times as much would fail: near enough
TRIES = 8

T = TypeVar("T")


def search_accuracy(run: Run, goal: Goal, curves: PruningCurves, loss_of: LossEstimator) -> Pruned:
    """Find the smallest model whose loss stays within `goal.max_drop`, as far as it is known.

    Every try is cut and refitted; moments, removal paths and sensitivities are those of the first.
    Layers are refitted together in the last model only: that takes long, and what it gains is a
    margin for other samples.

    Raises
    ------
    TargetError
        If the budgets, or the least that can be removed, already cost more.
    """
    assert goal.max_drop is not None
    bound = goal.max_drop
    worst: list[EstimatedLoss] = []
    asked = _removed_by(goal, run.analysis)
    reachable = most_removable([c.widths for c in curves.choices], run.analysis.macs)

    def attempt(choice: Choice, *, by_gradient: bool) -> Pruned | None:
        pruned = apply_choice(run, choice, by_gradient=by_gradient)
        with run.clock("search"):
            loss = loss_of(pruned.model)
        if loss.decisive <= bound:
            return replace(pruned, loss=loss)
        worst.append(loss)
        return None

    def remove(share: float) -> Pruned | None:
        smaller = with_share(goal, run.analysis, share)
        return attempt(decide(run, smaller, curves), by_gradient=False)

    found = _furthest(remove, max(asked, LEAST), reachable, given=asked > 0)
    if found is None:
        raise TargetError(
            "--max-drop: can't be kept",
            got=f"{worst[-1].decisive:.2%} {worst[-1].kind} at {max(asked, LEAST):.1%} fewer MACs",
            expected=f"at most {bound:.2%}",
            hint="allow more, bring more data, or name a budget such as --target-macs alone",
        )
    settings = run.settings
    if not settings.refit or not run.samples.fit or settings.joint_refit == settings.tune == 0:
        return found
    note = "layers were not refitted together: more would be lost than --max-drop allows"
    alone = replace(found, notes=(*found.notes, note))
    return attempt(found.choice, by_gradient=True) or alone


def with_provable_budget(run: Run) -> Run:
    """Bound the MACs instead of the loss where there are too few samples to show the default."""
    settings, bound = run.settings, run.settings.max_drop
    if bound is None or least_provable_loss(run.analysis, run.samples, run.settings) <= bound:
        return run
    settings = replace(settings, max_drop=None, target_macs=DEFAULT_TARGET_MACS)
    note = (
        f"no budget was named, and there are too few samples to show a loss of at most "
        f"{bound:.0%}: {DEFAULT_TARGET_MACS:.0%} of the MACs are left instead"
    )
    samples = divided(run.samples, HELD_OUT)
    samples = replace(samples, notes=(*samples.notes, note))
    return replace(run, settings=settings, samples=samples)


def deepest_goal(goal: Goal, analysis: Analysis) -> Goal:
    """Return a goal whose pruning curves reach as far as a search will go."""
    if goal.latency is None and goal.max_drop is None:
        return goal
    return with_share(goal, analysis, min(most_removable(goal.widths, analysis.macs), MOST_REMOVED))


def with_share(goal: Goal, analysis: Analysis, share: float) -> Goal:
    """Add the budget that a share of the multiply-accumulates goes."""
    full = analysis.full_widths
    limit = math.ceil((1 - share) * analysis.macs.at(full)) + 1  # shares are rounded
    budget = Budget(MACS, analysis.macs, limit)
    return replace(goal, budgets=(*goal.budgets, budget))


def most_removable(widths: Sequence[np.ndarray], macs: Cost) -> float:
    """Return the share of the multiply-accumulates that the cheapest widths leave out."""
    least = macs.at(cheapest(widths, [Budget(MACS, macs, 1)]))
    return 1 - least / max(macs.at(np.array([w[-1] for w in widths])), 1)


def _removed_by(goal: Goal, analysis: Analysis) -> float:
    """Return the share of the multiply-accumulates that the budgets take at least."""
    full = analysis.full_widths
    if fits(full, goal.budgets):
        return 0.0
    return max(
        (1 - b.limit / max(b.cost.at(full), 1) for b in goal.budgets if b.name == MACS),
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
