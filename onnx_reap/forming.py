"""Which form of a model is pruned: as given, or with what low rank makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_reap.budget import Goal, read_goal
from onnx_reap.choice import decide, observe
from onnx_reap.errors import CheckError, TargetError
from onnx_reap.evidence import Evidence
from onnx_reap.factoring import with_layers_whole, without_idle
from onnx_reap.hurrying import check_latency
from onnx_reap.making import make, quality
from onnx_reap.samples import teachers_and_judges
from onnx_reap.searching import scouted
from onnx_reap.work import Work


def observed(work: Work) -> tuple[Work, Goal, Evidence]:
    """Find out what the goal is and what removals cost, in the form that loses least.

    What a layer loses is told best by what it makes itself, not by coordinates in front of it; so
    layers that are two for nothing become one again, and everything is looked at anew. And where
    outputs of a layer go besides coordinates in front of it, more is lost than both tell alone; so
    both forms are made, and samples that judge choose.

    Raises
    ------
    TargetError
        If the goal is out of reach.
    """
    found = _without_idle(work)
    other = with_layers_whole(found[0])
    if other is None or found[1].max_drop is not None:
        return found
    try:
        rival = _without_idle(other)
        return min(found, rival, key=lambda each: _lost(*each))
    except TargetError:  # without ranks
        return found


def _without_idle(work: Work) -> tuple[Work, Goal, Evidence]:
    with work.clock("analyse"):
        goal = read_goal(work.analysis, work.settings, work.original.analysis.proto)
    goal = check_latency(work, goal)
    aim = scouted(work, goal)
    with work.clock("choose"):
        evidence = observe(work, [aim])
        fewer = without_idle(work, decide(work, aim, evidence)) if work.factored else work
    return (work, goal, evidence) if fewer is work else _without_idle(fewer)


def _lost(work: Work, goal: Goal, evidence: Evidence) -> float:
    """Return the error of the outputs on samples that judge, after a refit on others."""
    parts = teachers_and_judges(work.samples.fit, work.settings.seed) if work.samples.fit else None
    if parts is None:
        return 0.0  # nothing can tell: the first is as good as the other
    taught = replace(work, samples=replace(work.samples, fit=parts[0]))
    with work.clock("choose"):
        try:
            made = make(taught, decide(work, goal, evidence), joint=False)
            errors = quality(work.original.analysis, made.model, parts[1]).output_error
        except CheckError:
            return float("inf")
    return float(np.mean(list(errors.values()))) if errors else 0.0
