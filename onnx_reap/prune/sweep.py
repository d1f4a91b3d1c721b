"""Goals of a sweep: several budgets on the multiply-accumulates of one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnx_reap.errors import TargetError
from onnx_reap.parsing import FRACTIONS
from onnx_reap.prune.accuracy_search import most_removable
from onnx_reap.prune.context import Work
from onnx_reap.prune.goal import Goal, read_goal
from onnx_reap.solve.allocation import EASIER


def reachable_goals(
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


def checked_targets(targets: Any) -> list[float]:
    """Return targets, largest first.

    Raises
    ------
    UsageError
        If they are no fractions, or none.
    """
    values = FRACTIONS.accept("--targets", targets)
    return sorted({float(value) for value in values}, reverse=True)
