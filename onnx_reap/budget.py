"""What the user asked to remove, in terms of the model's groups."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .analysis import Analysis
from .errors import ReapError, UsageError
from .graph.channels import Group
from .plan.allocate import Budget, allowed_widths, check_reachable
from .plan.cost import Cost
from .settings import DEFAULT_TARGET_MACS, Settings


@dataclass(frozen=True)
class Goal:
    """What to reach: a ratio for every group, or budgets for the whole model.

    Attributes
    ----------
    widths : tuple of int arrays
        For every group the widths that it may take, ascending, its own last.
    ratios : tuple of float, optional
        Fraction to remove from every group.
    budgets : tuple of Budget
    """

    widths: tuple[np.ndarray, ...]
    ratios: tuple[float, ...] | None
    budgets: tuple[Budget, ...]


def read_goal(analysis: Analysis, settings: Settings) -> Goal:
    """Work out the goal, and refuse what can't be reached before anything is run.

    Raises
    ------
    UsageError
        If settings contradict each other or make no sense.
    ReapError
        If no channel may be removed.
    TargetError
        If a budget is out of reach.
    """
    _check(settings)
    widths = tuple(
        allowed_widths(
            group.width,
            step=group.step,
            round_to=settings.round_to,
            min_channels=settings.min_channels,
        )
        for group in analysis.groups
    )
    if not any(len(choices) > 1 for choices in widths):
        raise _nothing_to_prune(analysis)
    ratios = _ratios(analysis.groups, settings)
    if ratios is not None:
        return Goal(widths, ratios, ())
    full = np.array([group.width for group in analysis.groups])
    targets = {
        "--target-macs": (analysis.macs, settings.target_macs),
        "--target-params": (analysis.params, settings.target_params),
    }
    asked = {name: (cost, wish) for name, (cost, wish) in targets.items() if wish is not None}
    asked = asked or {"--target-macs": (analysis.macs, DEFAULT_TARGET_MACS)}
    budgets = tuple(_budget(name, cost, wish, full) for name, (cost, wish) in asked.items())
    check_reachable(widths, budgets)
    return Goal(widths, None, budgets)


def _check(settings: Settings) -> None:
    positive = ("min_channels", "positions", "round_to", "samples")
    for name in positive:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UsageError(f"{_flag(name)}: too small", got=str(value), expected="1 or more")
    for name in ("target_macs", "target_params"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise UsageError(f"{_flag(name)}: too small", got=str(value), expected="more than 0")
    if settings.ratio is not None and not 0 < settings.ratio < 1:
        raise UsageError("--ratio: out of range", got=str(settings.ratio), expected="between 0 and 1")
    given = [n for n in ("ratio", "layer_ratios") if getattr(settings, n) is not None]
    targets = [n for n in ("target_macs", "target_params") if getattr(settings, n) is not None]
    if len(given) > 1 or (given and targets):
        raise UsageError(
            "several budgets that contradict each other",
            got=" and ".join(_flag(name) for name in given + targets),
            expected="a ratio, ratios by layer, or targets",
        )
    if settings.criterion not in ("reap", "l1", "random"):
        raise UsageError("--criterion: unknown", got=settings.criterion, expected="reap, l1, random")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _budget(name: str, cost: Cost, wish: float, full: np.ndarray) -> Budget:
    """A wish of 1 or less is a fraction of the original."""
    return Budget(name, cost, int(wish * cost.at(full) if wish <= 1 else wish))


def _ratios(groups: Sequence[Group], settings: Settings) -> tuple[float, ...] | None:
    if settings.ratio is not None:
        return (settings.ratio,) * len(groups)
    if settings.layer_ratios is None:
        return None
    by_glob = _layer_ratios(settings.layer_ratios)
    used: set[str] = set()
    ratios = []
    for group in groups:
        names = (group.name, *group.producers)
        hits = [p for p in by_glob if any(fnmatch.fnmatchcase(n, p) for n in names)]
        used.update(hits)
        ratios.append(by_glob[hits[0]] if hits else 0.0)
    if unused := set(by_glob) - used:
        raise ReapError(
            "--layer-ratios: no prunable channels come from a node of that name",
            got=", ".join(sorted(unused)),
            expected="globs on " + ", ".join(sorted({g.name for g in groups})[:5]) + ", ...",
        )
    return tuple(ratios)


def _layer_ratios(given: Mapping[str, float] | str | Path) -> dict[str, float]:
    if isinstance(given, Mapping):
        content = given
    else:
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReapError(f"--layer-ratios {given}: can't be read", got=str(error)) from None
    valid = isinstance(content, Mapping) and all(
        isinstance(r, (int, float)) and 0 <= r < 1 for r in content.values()
    )
    if not valid:
        raise ReapError(
            "--layer-ratios: not ratios by name",
            got=str(content)[:80],
            expected='a JSON object such as {"/layer1/*": 0.5} with ratios from 0 to below 1',
        )
    return {str(name): float(ratio) for name, ratio in content.items()}


def _nothing_to_prune(analysis: Analysis) -> ReapError:
    reasons = [f"{f.node} ({f.reason} at {f.cause})" for f in analysis.frozen[:3]]
    return ReapError(
        "the model has no channel that may be removed",
        got="; ".join(reasons) or "no layer with a constant weight",
        expected="convolutions or dense layers whose outputs other layers read",
        hint="loosen --exclude, --include, --min-channels or --round-to if you set them",
    )
