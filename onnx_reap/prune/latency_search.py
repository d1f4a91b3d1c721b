"""The largest model within a time: planned by its layers' times, corrected by timing it whole."""

from dataclasses import replace

import numpy as np

from onnx_reap.errors import TargetError
from onnx_reap.measure.latency.compare import compare_latency
from onnx_reap.measure.latency.estimate import NANOSECONDS, predicted_latency
from onnx_reap.measure.latency.profile import measured_table
from onnx_reap.measure.runner import first_feed
from onnx_reap.prune.apply import cut_model, finish
from onnx_reap.prune.context import Run
from onnx_reap.prune.decide import chosen, decide
from onnx_reap.prune.form import Choice
from onnx_reap.prune.goal import Goal
from onnx_reap.prune.pruning_curves import PruningCurves, curves_from_weights
from onnx_reap.solve.allocation import EASIER, LATENCY, Budget
from onnx_reap.solve.cost import Costs

TRIES = 8
SECONDS = 1.5  # of timing a try
AIM = 0.98  # of the target
NEAR = 0.96  # of the target: fast enough, and hardly faster


def check_latency(run: Run, goal: Goal) -> Goal:
    """Drop a latency that the model has anyway, before anything is calibrated.

    Raises
    ------
    TargetError
        If even the narrowest widths exceed it.
    """
    if goal.latency is None:
        return goal
    order = curves_from_weights(run.form, goal.widths, replace(run.settings, criterion="l1"))
    narrowest = np.array([w[0] for w in goal.widths])
    whole, least = _times_target(run, goal.latency, chosen(run.analysis, order, narrowest))
    if whole <= 1:
        return replace(goal, latency=None)
    if least > 1:
        raise _too_slow(goal.latency, least)
    return goal


def search_latency(run: Run, goal: Goal, curves: PruningCurves) -> Goal:
    """Turn a latency into a budget on what a table of the layers' times, measured here, predicts.

    A whole model takes more or less than its layers alone do, so cut models are timed and the
    budget follows. Speed depends on shapes alone: nothing is refitted or verified.

    Raises
    ------
    TargetError
        If the narrowest widths that were looked at are too slow.
    """
    assert goal.latency is not None
    with run.clock("time layers"):
        table = measured_table(run.analysis, run.samples.every, run.settings, run.progress)
    cost: Costs = predicted_latency(run.analysis, table)
    ends = [np.array([c.widths[i] for c in curves.choices]) for i in (0, -1)]
    if cost.at(ends[0]) >= cost.at(ends[1]):  # too small a model to time its layers
        macs = run.analysis.macs
        cost = macs * (table.whole_ms * NANOSECONDS / max(macs.at(ends[1]), 1))
    least, full = map(cost.at, ends)
    best, low, high = None, least, full
    value, unit = goal.latency
    guess = int(full * value / (1.0 if unit == "x" else table.whole_ms))
    with run.progress.stage("Timing cut models", TRIES) as step, run.clock("search"):
        for left in reversed(range(TRIES)):
            guess = min(max(guess, least), high) if left or best else least
            limited = replace(goal, budgets=(*goal.budgets, Budget(LATENCY, cost, guess)))
            _, timed = _times_target(run, goal.latency, decide(run, limited, curves))
            step()
            if timed <= 1:
                best, low = limited, guess
            elif guess <= least:
                raise _too_slow(goal.latency, timed)
            else:
                high = guess
            if best and (guess == full or NEAR <= timed <= 1 or NEAR * high <= low):
                break
            wanted = int(guess * AIM / timed)
            guess = wanted if low < wanted < high else (low + high) // 2
    assert best is not None  # the last try is as fast as can be, unless one before was fast enough
    return best


def _too_slow(latency: tuple[float, str], least: float) -> TargetError:
    """Say that a latency can't be reached, given the least one as a multiple of it."""
    value, unit = latency
    return TargetError(
        "--target-latency: can't be reached",
        got=f"{value:g} {unit}",
        expected=f"at least {least * value:.3g} {unit}",
        hint=EASIER,
    )


def _times_target(run: Run, latency: tuple[float, str], choice: Choice) -> tuple[float, float]:
    """Return the latencies of the original and of a cut model as multiples of the target."""
    value, unit = latency
    analysis, samples = run.analysis, run.samples.every
    feed = first_feed(analysis, samples)
    pruned, _ = cut_model(analysis, choice.removed, samples, verify=False)
    out = finish(pruned, run.settings)
    pruned.free_weights()
    original, out = analysis.runnable(analysis.light), analysis.runnable(out)
    before, after = compare_latency(original, out, feed, analysis.providers, seconds=SECONDS)
    target = value * (before.median_ms if unit == "x" else 1.0)
    return before.median_ms / target, after.median_ms / target
