"""What settings mean together: the budget if none is set, and which contradict each other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onnx_reap.errors import UsageError
from onnx_reap.fields import CRITERIA
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
    """Make the settings of a run, with a budget if none is set."""
    settings = Settings.make(given)
    if settings.lossless:
        idle = [OPTIONS[name].flag for name in settings.chosen() if not OPTIONS[name].lossless]
        if idle:
            raise UsageError(
                "--lossless keeps what the model computes, and takes no budget and no method",
                hint=f"leave out {', '.join(idle)}",
            )
        return settings
    check_labels(settings.labels, data)
    if not (settings.names_budget or settings.zeroes):
        if data is None and settings.evaluate is None:
            settings = replace(settings, target_macs=DEFAULT_TARGET_MACS)
        else:
            settings = replace(settings, max_drop=DEFAULT_MAX_DROP)
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
    """
    check_packages(settings.criterion)
    for is_wrong, what, hint in _rules(settings):
        if is_wrong:
            raise UsageError(what, hint=hint)
    given = [n for n in (*BUDGETS, "latency_table") if getattr(settings, n) is not None]
    _check_budgets(given)
    if settings.low_rank is not None:
        _check_low_rank(settings, given)


def _rules(settings: Settings) -> list[tuple[bool, str, str]]:
    """Tell of each contradiction whether it is there, what is wrong and what to try."""
    tile, share, labels = settings.tile, settings.tile_sparsity, settings.labels
    measures, pools = settings.max_drop is not None, CRITERIA[settings.criterion].pools
    evaluates, zeroes = settings.evaluate is not None, settings.zeroes
    repaired = settings.refit or not settings.joint_refit
    tuned = settings.refit or not settings.tune
    bounded = settings.tune_time is not None and settings.tune is not None
    augments = settings.augment not in ("auto", "none")
    two = "leave one of them out"
    pattern = "--tile 8x1 --tile-sparsity 0.5, or --pattern 2:4"
    loss = "--max-drop: bounds the loss from removed channels only, and zeros add to it"
    idle_table = settings.latency_table is not None and settings.target_latency is None
    idle_labels = labels is not None and not (measures or pools)
    return [
        (idle_labels, "--labels requires --max-drop", "--max-drop 1%"),
        (evaluates and not measures, "--evaluate requires --max-drop", "--max-drop 1%"),
        (evaluates and labels is not None, "--labels and --evaluate: both measure the loss", two),
        (not repaired, "--joint-refit: contradicts --no-refit", two),
        (not tuned, "--tune: contradicts --no-refit", two),
        (bounded, "--tune and --tune-time: both say how long to tune", two),
        (augments and not settings.refit, "--augment: contradicts --no-refit", two),
        (bool(tile and settings.pattern), "--tile and --pattern: both place the zeros", two),
        (bool(tile) and share is None, "--tile requires --tile-sparsity", "--tile-sparsity 0.5"),
        (share is not None and not tile, "--tile-sparsity requires --tile", "--tile 8x1"),
        (
            not (settings.permutation or zeroes),
            "--no-permutation requires --tile or --pattern",
            pattern,
        ),
        (zeroes and measures, loss, "another budget, or none; the report tells the loss"),
        (idle_table, "--latency-table requires --target-latency", "--target-latency 0.6x"),
    ]


def _check_budgets(given: list[str]) -> None:
    """Refuse ratios next to targets; several targets are all met."""
    ratios = [name for name in RATIOS if name in given]
    targets = [name for name in TARGETS if name in given]
    if len(ratios) > 1 or (ratios and targets):
        raise UsageError(
            "several budgets that contradict each other",
            got=" and ".join(OPTIONS[name].flag for name in ratios + targets),
            expected="a ratio, ratios by layer, or targets",
            hint="leave out all but one, or all ratios",
        )


def _check_low_rank(settings: Settings, given: list[str]) -> None:
    """Refuse budgets that choose no ranks: ratios are of channels, tables of layers as they are."""
    if not given and settings.zeroes:  # no budget is set by default then
        raise UsageError(
            "--low-rank requires a budget if weights are zeroed", hint="--target-macs 60%"
        )
    without_ranks = (*RATIOS, "target_latency", "latency_table")
    idle = [OPTIONS[name].flag for name in given if name in without_ranks]
    idle += ["--allocation uniform"] if settings.allocation == "uniform" else []
    if idle:
        raise UsageError(
            "--low-rank: can't go with settings that choose no ranks",
            got=", ".join(idle),
            expected="--target-macs, --target-params, --target-size or --max-drop",
        )
