"""What can be said about settings without a model."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np

from onnx_reap.errors import UsageError
from onnx_reap.settings import Settings


def check_settings(settings: Settings) -> None:
    """Refuse settings that make no sense or contradict each other, whatever the model.

    Raises
    ------
    UsageError
    """
    for name in ("min_channels", "positions", "round_to", "samples"):
        value = getattr(settings, name)
        optional = name in ("round_to", "samples") and value is None
        if not optional and not (_is_whole(value) and value >= 1):
            expected = "a whole number, at least 1"
            raise UsageError(f"{flag(name)}: no such number", got=repr(value), expected=expected)
    if not (_is_whole(settings.seed) and settings.seed >= 0):
        expected = "a whole number, at least 0"
        raise UsageError("--seed: no such number", got=repr(settings.seed), expected=expected)
    for name in ("target_macs", "target_params"):
        value = getattr(settings, name)
        if value is not None and not (_is_number(value) and 0 < value < np.inf):
            raise UsageError(f"{flag(name)}: no budget", got=repr(value), expected="more than 0")
    if settings.ratio is not None and not (_is_number(settings.ratio) and 0 < settings.ratio < 1):
        expected = "between 0 and 1"
        raise UsageError("--ratio: out of range", got=repr(settings.ratio), expected=expected)
    for name in ("include", "exclude"):
        if isinstance(globs := getattr(settings, name), str):
            raise UsageError(f"{flag(name)}: not a list", got=repr(globs), expected=f"[{globs!r}]")
    if settings.criterion not in ("reap", "l1", "random"):
        expected = "reap, l1 or random"
        raise UsageError("--criterion: unknown", got=repr(settings.criterion), expected=expected)
    _check_budgets(settings)


def _check_budgets(settings: Settings) -> None:
    """Refuse ratios next to targets; two targets are both met."""
    given = [n for n in ("ratio", "layer_ratios") if getattr(settings, n) is not None]
    targets = [n for n in ("target_macs", "target_params") if getattr(settings, n) is not None]
    if len(given) > 1 or (given and targets):
        raise UsageError(
            "several budgets that contradict each other",
            got=" and ".join(flag(name) for name in given + targets),
            expected="a ratio, ratios by layer, or targets",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def flag(name: str) -> str:
    """Return what the command calls a setting."""
    return "--" + name.replace("_", "-")
