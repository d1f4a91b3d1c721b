"""Which form of a model is pruned: of those that low rank makes of it, the one that loses least."""

from dataclasses import replace

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import CheckError, TargetError
from onnx_reap.measure.quality import quality
from onnx_reap.prune.accuracy_search import deepest_goal
from onnx_reap.prune.apply import apply_choice
from onnx_reap.prune.context import Run
from onnx_reap.prune.decide import decide
from onnx_reap.prune.goal import Goal, read_goal
from onnx_reap.prune.low_rank.form import low_rank_of, with_layers_whole, without_idle
from onnx_reap.prune.pruning_curves import PruningCurves
from onnx_reap.prune.search import curves_for

Candidate = tuple[Goal, PruningCurves, Run]


def best_form(run: Run, goal: Goal) -> Candidate:
    """Find out what removals cost, in the form that loses least.

    What a layer loses is estimated best from what it makes itself, not from coordinates in front of
    it; so layers that keep their full rank become one again, and all is estimated anew. And where
    outputs of a layer are read besides coordinates in front of it, more is lost than both estimates
    alone say; so both forms are pruned, and validation samples decide.
    """
    found = _without_idle(run, goal)
    other, parts = with_layers_whole(low_rank_of(found[2])), run.samples.train_validation
    if other is None or parts is None or found[0].max_drop is not None:
        return found
    try:
        rival = _without_idle(other, read_goal(other))
        lost = [_lost(each, *parts) for each in (found, rival)]
        return rival if lost[1] < lost[0] else found
    except TargetError:  # the other form can't reach the target
        return found


def _without_idle(run: Run, goal: Goal) -> Candidate:
    goal, curves = curves_for(run, goal)
    if goal.max_drop is not None:  # a search removes less than was estimated for, and elsewhere
        return goal, curves, run
    with run.clock("choose"):
        choice = decide(run, deepest_goal(goal, run.analysis), curves)
        fewer = without_idle(low_rank_of(run), choice)
    return _without_idle(fewer, read_goal(fewer)) if fewer else (goal, curves, run)


def _lost(found: Candidate, train: Calibration, validation: Calibration) -> float:
    """Return the error of the outputs on validation samples, after a refit on the others."""
    goal, curves, run = found
    trained = replace(run, samples=replace(run.samples, fit=train))
    with run.clock("choose"):
        try:
            pruned = apply_choice(trained, decide(run, goal, curves), by_gradient=False)
            errors = quality(run.form.original, pruned.model, validation).output_error
        except CheckError:
            return float("inf")
    return float(np.mean(list(errors.values()))) if errors else 0.0
