"""Which channels stay: removal paths of all groups, and a width for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_reap.analysis import Analysis
from onnx_reap.budget import Goal
from onnx_reap.capture.moments import capture_moments
from onnx_reap.data import Calibration
from onnx_reap.graph.channels import Group
from onnx_reap.plan.allocate import Choices, fits, global_threshold, uniform, uniform_within
from onnx_reap.progress import Progress
from onnx_reap.select.order import l1_order, random_order
from onnx_reap.select.paths import find_taps, group_path
from onnx_reap.settings import Settings
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.removal import RemovalPath

DEEPEST = 0.4  # of the fraction that is to stay on average: narrower groups are not tried


@dataclass(frozen=True)
class Choice:
    """What is removed.

    Attributes
    ----------
    widths : (groups,) int array
    removed : tuple of int
        Units.
    errors : tuple of float or None
        By group, error of its removal relative to the variance of its consumers' outputs.
    notes : tuple of str
        Warnings.
    """

    widths: np.ndarray
    removed: tuple[int, ...]
    errors: tuple[float | None, ...]
    notes: tuple[str, ...] = ()


def choose(
    analysis: Analysis,
    goal: Goal,
    settings: Settings,
    calibration: Calibration | None,
    backend: Backend,
    progress: Progress,
) -> Choice:
    """Choose the channels to remove.

    Parameters
    ----------
    calibration : Calibration, optional
        None if nothing is to be estimated; groups then shrink alike.
    """
    groups = analysis.groups
    blank = [Choices(w, np.zeros(len(w))) for w in goal.widths]
    fixed = None
    if goal.ratios is not None:
        fixed = uniform(blank, goal.ratios)
    elif calibration is None or fits(np.array([g.width for g in groups]), goal.budgets):
        fixed = uniform_within(blank, goal.budgets)
    widths = _worth_following(goal)
    narrowest = [int(w[0]) for w in widths] if fixed is None else fixed.tolist()
    orders = [_order(group, analysis, settings) for group in groups]
    if calibration is None:
        paths = [RemovalPath(np.asarray(order), np.zeros(len(order or ()))) for order in orders]
        variances: list[float | None] = [None] * len(groups)
    else:
        paths, variances = _paths(
            analysis, orders, narrowest, settings, calibration, backend, progress
        )
    if fixed is None:
        choices = [_choices(w, path) for w, path in zip(widths, paths, strict=True)]
        fixed = global_threshold(choices, goal.budgets)
    removed, errors = [], []
    for group, path, width, variance in zip(groups, paths, fixed.tolist(), variances, strict=True):
        gone = group.width - width
        removed += [group.units[int(unit)] for unit in path.order[:gone]]
        error = float(path.errors[gone - 1]) if gone else 0.0
        errors.append(error / variance if variance else None)
    notes = [] if removed else ["the model is as small as was asked for: nothing was removed"]
    if removed and calibration is not None:
        notes += _too_few_samples(analysis, narrowest, settings, calibration)
    return Choice(fixed, tuple(removed), tuple(errors), tuple(notes))


def _worth_following(goal: Goal) -> list[np.ndarray]:
    """Leave out widths far below what the budgets ask for on average: long paths take time."""
    full = np.array([w[-1] for w in goal.widths])
    asked = min((b.limit / max(b.cost.at(full), 1) for b in goal.budgets), default=1.0)
    widths = [w[w >= min(asked * DEEPEST, 1.0) * w[-1]] for w in goal.widths]
    reachable = fits(np.array([w[0] for w in widths]), goal.budgets)
    return widths if reachable else list(goal.widths)


def _too_few_samples(
    analysis: Analysis, narrowest: list[int], settings: Settings, calibration: Calibration
) -> list[str]:
    """Warn if some layer has more unknowns than samples give it equations."""
    shrinking = [g for g, least in zip(analysis.groups, narrowest, strict=True) if g.width > least]
    needs = {}
    for tap in find_taps(analysis.flow, shrinking):
        linear, shape = tap.linear, analysis.probe.shapes[tap.linear.y]
        places = np.prod(shape) / analysis.probe.batch / shape[linear.y_axis]
        needs[linear.node] = tap.columns / max(min(places, settings.positions), 1)
    node, samples = max(needs.items(), key=lambda item: item[1], default=("", 0.0))
    if len(calibration) >= samples:
        return []
    return [
        f"{len(calibration)} samples are fewer than the unknowns of {node}: it takes "
        f"{int(np.ceil(samples)):,} to have as many equations, and some times as many for a "
        "repair that holds on other inputs"
    ]


def _order(group: Group, analysis: Analysis, settings: Settings) -> list[int] | None:
    if settings.criterion == "l1":
        return l1_order(group, analysis.flow, analysis.model).tolist()
    if settings.criterion == "random":
        return random_order(group, settings.seed).tolist()
    return None


def _paths(
    analysis: Analysis,
    orders: list[list[int] | None],
    narrowest: list[int],
    settings: Settings,
    calibration: Calibration,
    backend: Backend,
    progress: Progress,
) -> tuple[list[RemovalPath], list[float | None]]:
    """Capture moments and follow the removal path of every group down to its narrowest width."""
    groups = analysis.groups
    steps = [g.width - least for g, least in zip(groups, narrowest, strict=True)]
    taps = find_taps(analysis.flow, [g for g, s in zip(groups, steps, strict=True) if s])
    with progress.stage("Capturing activations", len(calibration)) as step:
        moments = capture_moments(
            analysis.model.to_proto(),
            taps,
            calibration,
            analysis.probe,
            positions=settings.positions,
            seed=settings.seed,
            fixed_batch=analysis.fixed_batch,
            providers=analysis.providers,
            to_device=backend.to_device,
            on_batch=step,
        )
    by_node = {tap.linear.node: tap for tap in taps}
    paths: list[RemovalPath] = []
    variances: list[float | None] = []
    with progress.stage("Choosing channels", len(groups)) as step:
        for group, order, count in zip(groups, orders, steps, strict=True):
            if not count:
                paths.append(RemovalPath(np.zeros(0, np.int64), np.zeros(0)))
                variances.append(None)
            else:
                path, variance = group_path(
                    group, analysis.flow, analysis.model, by_node, moments, backend,
                    steps=count, order=order,
                )  # fmt: skip
                paths.append(path)
                variances.append(variance)
            step()
    return paths, variances


def _choices(widths: np.ndarray, path: RemovalPath) -> Choices:
    gone = widths[-1] - widths
    errors = np.concatenate([[0.0], path.errors])
    return Choices(widths, errors[gone])
