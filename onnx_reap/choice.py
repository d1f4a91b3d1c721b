"""Which channels stay: removal paths of all groups, and a width for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .analysis import Analysis
from .budget import Goal
from .capture.moments import capture_moments
from .data import Calibration
from .graph.channels import Group
from .plan.allocate import Choices, global_threshold, uniform, uniform_within
from .progress import Progress
from .select.order import l1_order, random_order
from .select.paths import find_taps, group_path
from .settings import Settings
from .solve.backend import Backend
from .solve.removal import RemovalPath


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
    """

    widths: np.ndarray
    removed: tuple[int, ...]
    errors: tuple[float | None, ...]


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
    fixed = None
    if goal.ratios is not None:
        blank = [Choices(w, np.zeros(len(w))) for w in goal.widths]
        fixed = uniform(blank, goal.ratios)
    elif calibration is None:
        fixed = uniform_within([Choices(w, np.zeros(len(w))) for w in goal.widths], goal.budgets)
    narrowest = [int(w[0]) for w in goal.widths] if fixed is None else fixed.tolist()
    orders = [_order(group, analysis, settings) for group in groups]
    if calibration is None:
        paths = [RemovalPath(np.asarray(order), np.zeros(g.width)) for order, g in zip(orders, groups, strict=True)]
        variances: list[float | None] = [None] * len(groups)
    else:
        paths, variances = _paths(
            analysis, orders, narrowest, settings, calibration, backend, progress
        )
    if fixed is None:
        choices = [_choices(w, path) for w, path in zip(goal.widths, paths, strict=True)]
        fixed = global_threshold(choices, goal.budgets)
    removed, errors = [], []
    for group, path, width, variance in zip(groups, paths, fixed.tolist(), variances, strict=True):
        gone = group.width - width
        removed += [group.units[int(unit)] for unit in path.order[:gone]]
        error = float(path.errors[gone - 1]) if gone else 0.0
        errors.append(error / variance if variance else None)
    return Choice(fixed, tuple(removed), tuple(errors))


def _order(group: Group, analysis: Analysis, settings: Settings) -> np.ndarray | None:
    if settings.criterion == "l1":
        return l1_order(group, analysis.flow, analysis.model)
    if settings.criterion == "random":
        return random_order(group, settings.seed)
    return None


def _paths(
    analysis: Analysis,
    orders: list[np.ndarray | None],
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
