"""Which channels stay: a width for every group, and the first ones on its removal path go."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.merge import Merge
from onnx_reap.options import Settings
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import Choice
from onnx_reap.prune.goal import Goal
from onnx_reap.prune.pruning_curves import (
    PruningCurves,
    curves_from_samples,
    curves_from_weights,
)
from onnx_reap.prune.removal_paths import find_taps
from onnx_reap.solve.allocation import Choices, cheapest, fits, uniform, uniform_within
from onnx_reap.solve.knapsack import knapsack

NARROWEST = 0.4  # of the fraction that is to stay on average: narrower groups are not tried


def estimate(run: Run, goals: Sequence[Goal]) -> PruningCurves:
    """Find out what removing channels costs, as far as any of the goals needs it."""
    fixed = [_fixed_widths(run, goal) for goal in goals]
    wanted = [
        _worth_following(goal) if widths is None else _only(goal, widths)
        for goal, widths in zip(goals, fixed, strict=True)
    ]
    widths = [np.unique(np.concatenate(each)) for each in zip(*wanted, strict=True)]
    if run.samples.fit is None:
        return curves_from_weights(run.form, widths, run.settings)
    if all(len(w) == 1 for w in widths):  # nothing goes, in whatever order
        return curves_from_weights(run.form, widths, replace(run.settings, criterion="l1"))
    sensitivities = any(w is None for w in fixed) and run.settings.allocation == "pro"
    return curves_from_samples(run, widths, sensitivities=sensitivities)


def decide(run: Run, goal: Goal, curves: PruningCurves) -> Choice:
    """Choose the channels to remove."""
    widths = _fixed_widths(run, goal)
    if widths is None:
        widths = knapsack(curves.choices, goal.budgets)
    choice = chosen(run.analysis, curves, widths)
    notes = []
    if not choice.removed:
        notes = ["the model already meets the budget: nothing was removed"]
    elif run.samples.fit is not None:
        notes = _too_few_samples(run.analysis, widths, run.settings, run.samples.fit)
        notes += curves.notes
    return replace(choice, notes=tuple(notes))


def narrowed(curves: PruningCurves, goal: Goal) -> PruningCurves:
    """Leave out the widths that were only looked at for deeper goals.

    Errors of very narrow widths are too low, as they hold for a group alone: a goal should not take
    any that it would not have had looked at for itself.
    """
    choices = []
    for known, worth in zip(curves.choices, _worth_following(goal), strict=True):
        taken = np.isin(known.widths, worth)
        choices.append(Choices(known.widths[taken], known.errors[taken]))
    return replace(curves, choices=tuple(choices))


def chosen(analysis: Analysis, curves: PruningCurves, widths: np.ndarray) -> Choice:
    """Look up what goes at some widths, with what vanishes along."""
    along = analysis.branches.vanishing_with(np.flatnonzero(widths == 0).tolist())
    widths = np.array([0 if g in along else w for g, w in enumerate(widths.tolist())], np.int64)
    removed: list[int] = []
    errors: list[float | None] = []
    targets: dict[int, tuple[int, float]] = {}
    averaged: set[int] = set()
    for group, removal, width in zip(
        analysis.groups, curves.removals, widths.tolist(), strict=True
    ):
        count = group.width - width
        path, variance, ranking = removal.path, removal.variance, removal.ranking
        removed += [group.units[int(u)] for u in path.order[:count]] if width else group.units
        error = float(path.errors[count - 1]) / variance if width and count and variance else 0.0
        errors.append(None if not variance else error if width else 1.0)
        if ranking is not None and width:
            merged = ranking.merged(count)
            targets |= {group.units[u]: (group.units[h.unit], h.share) for u, h in merged.items()}
            averaged |= {group.units[h.unit] for h in merged.values() if ranking.averaged}
    merge = Merge(targets, frozenset(averaged))
    return Choice(widths, tuple(removed), tuple(errors), merge=merge)


def _fixed_widths(run: Run, goal: Goal) -> np.ndarray | None:
    """Return the widths where they don't depend on what removals cost."""
    blank = [Choices(w[w > 0], np.zeros((w > 0).sum())) for w in goal.widths]
    if goal.ratios is not None:
        return uniform(blank, goal.ratios)
    whole = fits(run.analysis.full_widths, goal.budgets)
    if run.samples.fit is None or whole or run.settings.allocation == "uniform":
        return uniform_within(blank, goal.budgets)
    return None


def _only(goal: Goal, fixed: np.ndarray) -> list[np.ndarray]:
    """List the one width of every group that is wanted, and its own."""
    return [np.unique([width, w[-1]]) for w, width in zip(goal.widths, fixed, strict=True)]


def _worth_following(goal: Goal) -> list[np.ndarray]:
    """Leave out widths far below what the budgets ask for on average: long paths take time."""
    full = np.array([w[-1] for w in goal.widths])
    asked = min((b.limit / max(b.cost.at(full), 1) for b in goal.budgets), default=1.0)
    least = min(asked * NARROWEST, 1.0)
    widths = [w[(w >= least * w[-1]) | (w == 0)] for w in goal.widths]
    reachable = fits(cheapest(widths, goal.budgets), goal.budgets)
    return widths if reachable else list(goal.widths)


def _too_few_samples(
    analysis: Analysis, widths: np.ndarray, settings: Settings, calibration: Calibration
) -> list[str]:
    """Warn if some layer has more unknowns than samples give it equations."""
    shrinking = [g for g, width in zip(analysis.groups, widths, strict=True) if g.width > width]
    needs = {}
    for tap in find_taps(analysis, shrinking):
        linear, shape = tap.linear, analysis.probe.shapes[tap.linear.y]
        places = np.prod(shape) / analysis.probe.batch / shape[linear.y_axis]
        needs[linear.node] = tap.columns / max(min(places, settings.positions), 1)
    node, samples = max(needs.items(), key=lambda item: item[1], default=("", 0.0))
    if len(calibration) >= samples:
        return []
    return [
        f"too few samples ({len(calibration)}) for the unknowns of {node}: it takes "
        f"{int(np.ceil(samples)):,} to have as many equations, and some times as many for a "
        "repair that holds on other inputs"
    ]
