"""What settings mean together: the budget if none is set, and which contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx_reap.errors import UsageError
from onnx_reap.fields import CRITERIA, check_names
from onnx_reap.options import (
    BUDGETS,
    DEFAULT_MAX_DROP,
    DEFAULT_TARGET_MACS,
    OPTIONS,
    RATIOS,
    TARGETS,
    Settings,
)
from onnx_reap.prune.criteria.table import check_packages


def run_settings(given: Mapping[str, Any], data: Any) -> Settings:
    """Make the settings of a run, with a budget if none is set.

    Parameters
    ----------
    given : mapping of str to object
        Settings by name, as Python passes them.
    data : object
        Calibration samples; None if there are none.

    Raises
    ------
    UsageError
        If a name is unknown, a value isn't valid, or settings contradict each other.
    ReapError
        If the criterion needs a package that isn't installed.
    """
    settings = Settings.make(given)
    if settings.lossless:
        what = "--lossless keeps what the model computes, and takes no budget and no method"
        lossless = [name for name, each in OPTIONS.items() if each.lossless]
        check_names(settings.chosen(), OPTIONS, lossless, what)
        return settings
    check_labels(settings.labels, data)
    if not (settings.names_budget or settings.zeroes):
        measured = data is not None or settings.evaluate is not None
        settings = (
            replace(settings, max_drop=DEFAULT_MAX_DROP)
            if measured
            else replace(settings, target_macs=DEFAULT_TARGET_MACS)
        )
    check_contradictions(settings)
    return settings


def check_labels(labels: Any, data: Any) -> None:
    """Refuse labels of samples that are synthetic.

    Raises
    ------
    UsageError
    """
    if labels is not None and data is None:
        raise UsageError("--labels requires --data", hint="--data calib.npz")


def check_contradictions(settings: Settings) -> None:
    """Refuse settings that contradict each other, or need others, whatever the model.

    Raises
    ------
    UsageError
    ReapError
        If the criterion needs a package that isn't installed.
    """
    check_packages(settings.criterion)
    given = [n for n in (*BUDGETS, "latency_table") if getattr(settings, n) is not None]
    _check_measures(settings)
    if settings.joint_refit and not settings.refit:
        raise UsageError("--joint-refit: contradicts --no-refit", hint="leave one of them out")
    _check_zeros(settings)
    _check_budgets(given)
    if settings.low_rank is not None:
        _check_low_rank(settings, given)


def _check_measures(settings: Settings) -> None:
    """Refuse two measures of the loss, or one that no budget reads."""
    labels = settings.labels is not None and not CRITERIA[settings.criterion].pools
    for name, is_read in (("labels", labels), ("evaluate", settings.evaluate is not None)):
        if is_read and settings.max_drop is None:
            raise _requires(name, "--max-drop", "--max-drop 1%")
    if settings.labels is not None and settings.evaluate is not None:
        raise UsageError("--labels and --evaluate: only one of them can measure the loss")


def _check_zeros(settings: Settings) -> None:
    """Refuse zeros in two patterns, half of what tiles take, and bounds that zeros break."""
    if settings.tile is not None and settings.pattern is not None:
        raise UsageError("--tile and --pattern: only one of them can say where zeros are")
    if settings.tile is not None and settings.tile_sparsity is None:
        raise _requires("tile", "--tile-sparsity", "--tile-sparsity 0.5")
    if settings.tile_sparsity is not None and settings.tile is None:
        raise _requires("tile_sparsity", "--tile", "--tile 8x1")
    if not (settings.permutation or settings.zeroes):
        hint = "--tile 8x1 --tile-sparsity 0.5, or --pattern 2:4"
        raise _requires("permutation", "--tile or --pattern", hint)
    if settings.zeroes and settings.max_drop is not None:
        raise UsageError(
            "--max-drop: bounds the loss from removed channels only, and zeros add to it",
            hint="another budget, or none; the report tells the loss",
        )


def _check_budgets(given: list[str]) -> None:
    """Refuse ratios next to targets, and a table that nothing reads; targets may be several."""
    ratios = [name for name in RATIOS if name in given]
    targets = [name for name in TARGETS if name in given]
    if len(ratios) > 1 or (ratios and targets):
        raise UsageError(
            "several budgets that contradict each other",
            got=" and ".join(OPTIONS[name].flag for name in ratios + targets),
            expected="a ratio, ratios by layer, or targets",
        )
    if "latency_table" in given and "target_latency" not in given:
        raise _requires("latency_table", "--target-latency", "--target-latency 0.6x")


def _check_low_rank(settings: Settings, given: list[str]) -> None:
    """Refuse budgets that choose no ranks: ratios are of channels, tables of layers as they are."""
    if not given and settings.zeroes:  # no budget is set by default then
        raise _requires("low_rank", "a budget if weights are zeroed", "--target-macs 60%")
    without_ranks = (*RATIOS, "target_latency", "latency_table")
    idle = [OPTIONS[name].flag for name in given if name in without_ranks]
    idle += ["--allocation uniform"] if settings.allocation == "uniform" else []
    if idle:
        raise UsageError(
            "--low-rank: can't go with settings that choose no ranks",
            got=", ".join(idle),
            expected="--target-macs, --target-params, --target-size or --max-drop",
        )


def _requires(name: str, others: str, hint: str) -> UsageError:
    return UsageError(f"{OPTIONS[name].flag} requires {others}", hint=hint)
