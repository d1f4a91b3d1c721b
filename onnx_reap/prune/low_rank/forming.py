"""Which form of a model is pruned: as given, or with what low rank makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.data.split import train_and_validation
from onnx_reap.errors import CheckError, TargetError
from onnx_reap.measure.quality import quality
from onnx_reap.prune.accuracy_search import scouted
from onnx_reap.prune.apply import make
from onnx_reap.prune.context import Work
from onnx_reap.prune.decide import decide, observe
from onnx_reap.prune.goal import Goal, read_goal
from onnx_reap.prune.latency_search import check_latency
from onnx_reap.prune.low_rank.factoring import with_layers_whole, without_idle
from onnx_reap.prune.pruning_curves import Evidence


def goal_of(work: Work) -> Goal:
    """Find out what is asked for.

    Raises
    ------
    ReapError
        If nothing may be removed.
    TargetError
        If it is out of reach.
    """
    with work.clock("analyse"):
        return read_goal(work.analysis, work.settings, work.original.analysis.proto)


def observed(work: Work, goal: Goal) -> tuple[Work, Goal, Evidence]:
    """Find out what removals cost, in the form that loses least.

    What a layer loses is told best by what it makes itself, not by coordinates in front of it; so
    layers that are two for nothing become one again, and everything is looked at anew. And where
    outputs of a layer go besides coordinates in front of it, more is lost than both tell alone; so
    both forms are made, and samples that judge choose.

    Parameters
    ----------
    goal : Goal
        Of `work`.

    Returns
    -------
    work, goal, evidence
        In that form.

    Raises
    ------
    TargetError
        If the goal is out of reach.
    """
    found = _without_idle(work, goal)
    other, fit = with_layers_whole(found[0]), work.samples.fit
    parts = train_and_validation(fit, work.settings.seed) if fit else None
    if other is None or parts is None or found[1].max_drop is not None:
        return found
    try:
        rival = _without_idle(other, goal_of(other))
        lost = [_lost(each, *parts) for each in (found, rival)]
        return rival if lost[1] < lost[0] else found
    except TargetError:  # without ranks
        return found


def _without_idle(work: Work, goal: Goal) -> tuple[Work, Goal, Evidence]:
    goal = check_latency(work, goal)
    aim = scouted(work, goal)
    with work.clock("choose"):
        evidence = observe(work, [aim])
        # A search takes less than it was scouted for, and other layers.
        searched = goal.max_drop is not None or work.factored is None
        fewer = work if searched else without_idle(work, decide(work, aim, evidence))
    return (work, goal, evidence) if fewer is work else _without_idle(fewer, goal_of(fewer))


def _lost(found: tuple[Work, Goal, Evidence], teachers: Calibration, judges: Calibration) -> float:
    """Return the error of the outputs on samples that judge, after a refit on others."""
    work, goal, evidence = found
    taught = replace(work, samples=replace(work.samples, fit=teachers))
    with work.clock("choose"):
        try:
            made = make(taught, decide(work, goal, evidence), joint=False)
            errors = quality(work.original.analysis, made.model, judges).output_error
        except CheckError:
            return float("inf")
    return float(np.mean(list(errors.values()))) if errors else 0.0
