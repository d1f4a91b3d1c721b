"""What a sweep takes: several budgets on one model's multiply-accumulates, and accuracies."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_reap.data.labels import read_labels
from onnx_reap.errors import TargetError
from onnx_reap.measure.accuracy import correct_on
from onnx_reap.measure.accuracy_loss import held_out_for
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.parsing import FRACTIONS
from onnx_reap.prune.accuracy_search import most_removable
from onnx_reap.prune.context import Run
from onnx_reap.prune.goal import Goal, read_goal
from onnx_reap.solve.allocation import EASIER


def reachable_goals(
    run: Run, targets: Sequence[float], *, named: bool
) -> tuple[dict[float, Goal], list[str]]:
    """Work out the goals; refuse targets out of reach, or leave out those that nobody named.

    Returns
    -------
    goals : dict of float to Goal
        By target.
    notes : list of str
        Warnings.

    Raises
    ------
    TargetError
    """
    # The whole model is a goal that fails only where nothing may go.
    widths = _goal(run, 1.0).widths
    goals = {}
    for target in targets:
        with suppress(TargetError):
            goals[target] = _goal(run, target)
    missed = [target for target in targets if target not in goals]
    if not missed:
        return goals, []
    least = math.ceil(1000 * (1 - most_removable(widths, run.analysis.macs))) / 1000
    texts = ", ".join(f"{target:g}" for target in missed)
    if named or not goals:
        raise TargetError(
            "--targets: can't be reached",
            got=texts,
            expected=f"at least {least:g} of the MACs",
            hint=EASIER,
        )
    return goals, [f"targets left out: {texts}; the least that can be reached is {least:g}"]


def _goal(run: Run, target: float) -> Goal:
    return read_goal(replace(run, settings=replace(run.settings, target_macs=target)))


def checked_targets(targets: Any) -> list[float]:
    """Return targets, largest first."""
    values = FRACTIONS.accept("--targets", targets)
    return sorted({float(value) for value in values}, reverse=True)


def accuracy_of(run: Run, labels: Any) -> Callable[[LightModel], float]:
    """Make the function that tells the share of held-out samples that a model classifies right."""
    held_out = held_out_for("--labels", run.samples)
    correct = correct_on(run.analysis, held_out, read_labels(labels, run.samples.every))
    return lambda model: float(np.mean(correct(model)))
