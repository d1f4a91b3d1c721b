"""The front of size against quality: models for many targets, from one calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import onnx

from onnx_reap.data.labels import read_labels
from onnx_reap.errors import TargetError, UsageError
from onnx_reap.measure.accuracy import correct_on
from onnx_reap.measure.accuracy_loss import held_out_for
from onnx_reap.onnxio.load import Source
from onnx_reap.options import DEFAULT_TARGETS, SWEPT
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.prune.accuracy_search import most_removable
from onnx_reap.prune.apply import make
from onnx_reap.prune.conclude import Result, conclude
from onnx_reap.prune.context import Work, open_work
from onnx_reap.prune.decide import decide, narrowed, observe
from onnx_reap.prune.goal import Goal, read_goal
from onnx_reap.prune.pruning_curves import Evidence
from onnx_reap.solve.allocation import EASIER
from onnx_reap.validation import check_applicable, check_labelled, is_fraction, make_settings

Accuracy = Callable[[onnx.ModelProto], float]


@dataclass(frozen=True)
class Point(Result):
    """One model of a sweep.

    Attributes
    ----------
    target : float
        Fraction of the multiply-accumulates that it was allowed.
    accuracy_before, accuracy_after : float, optional
        Fraction of the held-out samples that the original and this model put into their class,
        where labels were given.
    """

    target: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None


def sweep(
    model: Source,
    data: Any = None,
    *,
    targets: Sequence[float] | None = None,
    labels: Any = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[Point]:
    """Prune a model to several sizes, calibrating once.

    Second moments, removal paths and sensitivities are gathered once, down to the narrowest widths
    that the smallest target asks for; every model is then cut from the original and refitted.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    data : path, array, dict of arrays, iterable of feeds or CalibrationDataReader, optional
        Calibration samples as for `reap`.
    targets : sequence of float, optional
        Fractions of the multiply-accumulates that models may have at most, between 0 and 1. By
        default 0.9 to 0.3 in steps of 0.1, of which those that can't be reached are left out; the
        reports' notes say so.
    labels : path or array_like of int, optional
        Class of every sample, in the order of the data: accuracies are measured with them, on the
        samples that are held out.
    progress : Progress, optional
        Told how far each stage is.
    **settings
        Fields of `Settings`, of which those in `SWEPT` mean something here.

    Returns
    -------
    list of Point
        Largest target first, each once.

    Raises
    ------
    UsageError
        If a setting or a target makes no sense.
    TargetError
        If a target that is named, or every default one, is out of reach.
    ReapError
        If the request can't be honoured for another reason.
    """
    check_applicable(settings, SWEPT, "settings that don't go with a sweep")
    check_labelled(labels, data)
    wanted = DEFAULT_TARGETS if targets is None else _checked(targets)
    work = open_work(model, data, make_settings(settings), progress or NoProgress())
    with work.clock("analyse"):
        goals, notes = _reachable(work, wanted, named=targets is not None)
    accuracy = None if labels is None else _accuracy(work, labels)
    before = None if accuracy is None else accuracy(work.analysis.proto)
    with work.clock("choose"):
        evidence = observe(work, list(goals.values()))
    points = []
    with work.progress.stage("Making models", len(goals)) as step:
        for target, goal in goals.items():
            result = _made(work, target, goal, evidence, notes)
            after = None if accuracy is None else accuracy(result.light)
            own = {f.name: getattr(result, f.name) for f in fields(result)}
            points.append(Point(**own, target=target, accuracy_before=before, accuracy_after=after))
            step()
    return points


def _made(
    work: Work, target: float, goal: Goal, evidence: Evidence, notes: Sequence[str]
) -> Result:
    """Make one model; its settings are those that `reap` would want for it."""
    alone = work.branch(replace(work.settings, target_macs=target), NoProgress())
    made = make(alone, decide(alone, goal, narrowed(evidence, goal)))
    return conclude(alone, made, budgets=goal.budgets, notes=notes)


def _reachable(
    work: Work, targets: Sequence[float], *, named: bool
) -> tuple[dict[float, Goal], list[str]]:
    """Work out the goals; refuse targets out of reach, or leave out those that nobody named."""
    # The whole model is a goal that fails only where nothing may go.
    widths = read_goal(
        work.analysis, replace(work.settings, target_macs=1.0), work.analysis.proto
    ).widths
    found = {target: _goal(work, target) for target in targets}
    goals = {target: goal for target, goal in found.items() if goal is not None}
    missed = [target for target in targets if target not in goals]
    if not missed:
        return goals, []
    least = math.ceil(1000 * (1 - most_removable(widths, work))) / 1000
    texts = ", ".join(f"{target:g}" for target in missed)
    if named or not goals:
        raise TargetError(
            "--targets: can't be reached",
            got=texts,
            expected=f"at least {least:g} of the MACs",
            hint=EASIER,
        )
    return goals, [f"targets left out: {texts}; the least that can be reached is {least:g}"]


def _goal(work: Work, target: float) -> Goal | None:
    try:
        return read_goal(
            work.analysis, replace(work.settings, target_macs=target), work.analysis.proto
        )
    except TargetError:
        return None


def _accuracy(work: Work, labels: Any) -> Accuracy:
    held_out = held_out_for("--labels", work.samples)
    correct = correct_on(work.analysis, held_out, read_labels(labels, work.samples.every))
    return lambda model: float(np.mean(correct(model)))


def _checked(targets: Any) -> list[float]:
    """Return targets, largest first.

    Raises
    ------
    UsageError
        If they are no fractions, or none.
    """
    values = targets.tolist() if hasattr(targets, "tolist") else targets
    if not (isinstance(values, (list, tuple)) and values and all(map(is_fraction, values))):
        raise UsageError(
            "--targets: no fractions of the MACs",
            got=repr(targets),
            expected="one or more between 0 and 1, such as 0.8, 0.6, 0.4",
        )
    return sorted({float(value) for value in values}, reverse=True)
