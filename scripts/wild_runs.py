"""Prune a real model to two budgets, and tell how far the results are on other samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from wild_inputs import Feed, stacked
from wild_models import Wild

import onnx_reap
from onnx_reap.onnxio.session import run, session
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.apply import apply_choice
from onnx_reap.prune.conclude import conclude
from onnx_reap.prune.context import Run, open_run
from onnx_reap.prune.decide import decide, estimate, narrowed
from onnx_reap.prune.goal import Goal, read_goal
from onnx_reap.report.build import make_result

BUDGETS: tuple[dict[str, Any], ...] = ({"target_macs": 0.6}, {"ratio": 0.5})
LAYERS_ALONE: dict[str, Any] = {"joint_refit": 0, "tune": 0}
SAMPLES = 256  # to calibrate with
HELD_OUT = 256  # samples that are compared, of which no run knows
NOTHING_LOST = 1e-4  # error of a cut that leaves a refit nothing to gain but noise
TOLERANCE = 2e-3  # of the cut model against the masked one, relative to an output's largest entry,
ROUNDING = 1e-6  # or absolute: what a Sigmoid makes is no more exact

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """One pruned model, and how far it and the one that was only sliced are from the original.

    Attributes
    ----------
    sliced, refitted : float
        Squared error over variance, mean of the outputs, on samples that no run knew.
    off_mask : float
        Largest difference of the sliced model from the masked one, relative to the output.
    """

    result: onnx_reap.Result
    sliced: float
    refitted: float
    off_mask: float


def prune(
    wild: Wild,
    model: onnx.ModelProto,
    budgets: Sequence[Mapping[str, Any]] = BUDGETS,
    settings: Mapping[str, Any] = LAYERS_ALONE,
) -> list[Outcome | onnx_reap.ReapError]:
    """Prune a model to several budgets, calibrating once; compare what comes out on other samples.

    Parameters
    ----------
    settings : mapping
        Besides the budgets. A time limit holds for all budgets together.

    Returns
    -------
    list of Outcome or ReapError
        By budget, a refusal where it can't be met.

    Raises
    ------
    ReapError
        If the model is refused whatever the budget.
    """
    rng = np.random.default_rng(0)
    other = [wild.draw(rng) for _ in range(HELD_OUT)]
    every = stacked(wild.draw(rng) for _ in range(SAMPLES)) | wild.whole
    work = open_run(model, every, Settings.make(settings), NoProgress())
    works = [work.with_settings(**budget) for budget in budgets]
    goals = [_goal(each) for each in works]
    reachable = [goal for goal in goals if isinstance(goal, Goal)]
    if not reachable:
        return [goal for goal in goals if not isinstance(goal, Goal)]
    evidence, wanted = estimate(work, reachable), outputs(model, other, wild.whole)
    told: list[Outcome | onnx_reap.ReapError] = []
    for each, goal in zip(works, goals, strict=True):
        if isinstance(goal, Goal):
            made = apply_choice(each, decide(each, goal, narrowed(evidence, goal)))
            result = make_result(conclude(each, made, budgets=goal.budgets))
            told.append(_judged(wild, model, result, other, wanted))
        else:
            told.append(goal)
    return told


def _goal(work: Run) -> Goal | onnx_reap.ReapError:
    try:
        return read_goal(work)
    except onnx_reap.ReapError as refusal:
        return refusal


def _judged(
    wild: Wild,
    model: onnx.ModelProto,
    result: onnx_reap.Result,
    other: list[Feed],
    wanted: Outputs,
) -> Outcome:
    sliced, masked = (apply(model, result.plan) for apply in (onnx_reap.cut, onnx_reap.mask))
    found = [outputs(each, other, wild.whole) for each in (sliced, masked, result.model)]
    return Outcome(
        result,
        sliced=error(wanted, found[0]),
        refitted=error(wanted, found[2]),
        off_mask=largest_difference(found[1], found[0]),
    )


def outputs(model: onnx.ModelProto, samples: list[Feed], whole: Feed) -> dict[str, np.ndarray]:
    """Run a model on samples; floating outputs, all batches in one array each."""
    active = session(model, ["CPUExecutionProvider"])
    inputs = [v for v in active.get_inputs() if v.name not in whole and v.shape]
    batch = max((v.shape[0] for v in inputs if isinstance(v.shape[0], int)), default=1)
    rounds = [samples[at : at + batch] for at in range(0, len(samples) - batch + 1, batch)]
    made = [run(active, None, stacked(each) | whole) for each in rounds]
    return {
        name: np.stack([one[name] for one in made]).astype(np.float64)
        for name, value in made[0].items()
        if value.dtype.kind == "f"
    }


def error(wanted: Outputs, found: Outputs) -> float:
    """Squared error over variance, mean of the outputs that vary."""
    errors = []
    for name, values in wanted.items():
        variance = np.square(values - values.mean(axis=(0, 1)[: values.ndim])).sum()
        if variance > 0:
            errors.append(np.square(found[name] - values).sum() / variance)
    return float(np.mean(errors))


def largest_difference(wanted: Outputs, found: Outputs) -> float:
    """Largest difference past rounding of two models' outputs, relative to the largest entry."""
    return max(
        float(
            max(np.abs(found[name] - values).max() - ROUNDING, 0)
            / np.abs(values).max(initial=1e-30)
        )
        for name, values in wanted.items()
    )
