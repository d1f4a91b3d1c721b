"""What can be said about settings without a model."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from onnx_reap import parsing
from onnx_reap.errors import UsageError
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.options import (
    BUDGETS,
    DEFAULT_MAX_DROP,
    DEFAULT_TARGET_MACS,
    LOSSLESS,
    RATIOS,
    TARGETS,
    ZEROED,
    Settings,
)
from onnx_reap.prune.criteria.table import CRITERIA, check_packages
from onnx_reap.zeros import check_zeros, is_tile


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Make settings of what a caller gives by name, and check them.

    Raises
    ------
    UsageError
        If a name is unknown, or a value makes no sense.
    """
    unknown = set(given) - set(Settings.__dataclass_fields__)
    if unknown:
        raise UsageError(
            "unknown settings",
            got=", ".join(sorted(unknown)),
            expected=", ".join(Settings.__dataclass_fields__),
        )
    settings = Settings(**{name: _plain(name, value) for name, value in given.items()})
    check_settings(settings)
    return settings


def check_lossless(given: Mapping[str, Any]) -> None:
    """Refuse settings next to `lossless` that lose something, or mean nothing then.

    Parameters
    ----------
    given : mapping of str to object
        Settings by name; those at their defaults count as not given.

    Raises
    ------
    UsageError
    """
    defaults = Settings()
    chosen = [name for name, value in given.items() if value is not getattr(defaults, name, None)]
    if given.get("lossless"):
        what = "--lossless removes what nothing depends on, and takes no budget and no method"
        check_applicable(chosen, LOSSLESS, what)


def default_budget(given: Mapping[str, Any], data: Any) -> dict[str, float]:
    """Return the budget, as a setting, of a caller who names none, and asks for no zeros."""
    if any(given.get(name) is not None for name in (*BUDGETS, "tile", "pattern")):
        return {}
    if data is None and given.get("evaluate") is None:
        return {"target_macs": DEFAULT_TARGET_MACS}
    return {"max_drop": DEFAULT_MAX_DROP}


def check_labelled(labels: Any, data: Any) -> None:
    """Refuse labels of samples that are made up.

    Raises
    ------
    UsageError
    """
    if labels is not None and data is None:
        raise UsageError("--labels: no samples that they could be of", hint="give --data too")


def check_applicable(given: Collection[str], known: Collection[str], what: str) -> None:
    """Refuse settings that mean nothing to a command.

    Parameters
    ----------
    given, known : collection of str
        Settings by name.
    what : str
        What is wrong with others.

    Raises
    ------
    UsageError
    """
    if idle := [name for name in given if name not in known]:
        raise UsageError(
            what,
            got=", ".join(flag(name) for name in idle),
            expected=", ".join(flag(name) for name in known),
        )


def _plain(name: str, value: Any) -> Any:
    """Make lists of NumPy arrays and of a single glob, and read a latency as the command does."""
    if name in ("include", "exclude", "custom_op_library") and isinstance(value, (str, Path)):
        return [value]
    if name in ("joint_refit", "round_to") and value == "auto":
        return None
    if name == "low_rank" and isinstance(value, bool):
        return "also" if value else None
    if name == "target_latency" and isinstance(value, str):
        try:
            return parsing.latency(value)
        except ArgumentTypeError as error:
            raise UsageError(f"--target-latency: {error}") from None
    return value.tolist() if hasattr(value, "tolist") else value


def check_settings(settings: Settings) -> None:
    """Refuse settings that make no sense or contradict each other, whatever the model.

    Raises
    ------
    UsageError
    ReapError
        If the criterion needs a package that isn't installed.
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
    for name in ("target_macs", "target_params", "target_size"):
        value = getattr(settings, name)
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            raise UsageError(f"{flag(name)}: no budget", got=repr(value), expected="more than 0")
    if settings.ratio is not None and not is_fraction(settings.ratio):
        raise UsageError("--ratio: not between 0 and 1", got=repr(settings.ratio))
    for name, known in _NAMES.items():
        if (value := getattr(settings, name)) not in known:
            expected = f"{', '.join(filter(None, known[:-1]))} or {known[-1]}"
            raise UsageError(f"{flag(name)}: unknown", got=repr(value), expected=expected)
    check_packages(settings.criterion)
    for name, (is_right, expected) in _KINDS.items():
        value = getattr(settings, name)
        if value is not None and not is_right(value):
            raise UsageError(f"{flag(name)}: of no use", got=repr(value), expected=expected)
    taught = settings.labels is not None and not CRITERIA[settings.criterion].pools
    if (taught or settings.evaluate) and settings.max_drop is None:
        alone = "--labels" if taught else "--evaluate"
        raise UsageError(f"{alone}: nothing to measure for", hint="give --max-drop too")
    if settings.labels is not None and settings.evaluate:
        raise UsageError("--labels and --evaluate: one of them can tell the loss")
    if settings.joint_refit and not settings.refit:
        raise UsageError("--joint-refit: contradicts --no-refit", hint="leave one of them out")
    check_zeros({name: getattr(settings, name) for name in (*ZEROED, "max_drop")})
    given = [n for n in (*BUDGETS, "latency_table") if getattr(settings, n) is not None]
    check_budgets(given)
    if settings.low_rank is not None:
        _check_low_rank(settings, given)


def check_budgets(names: Collection[str]) -> None:
    """Refuse ratios next to targets, and a table that nothing reads; several targets are all met.

    Parameters
    ----------
    names : collection of str
        Settings that are given.

    Raises
    ------
    UsageError
    """
    given = [name for name in RATIOS if name in names]
    targets = [name for name in TARGETS if name in names]
    if len(given) > 1 or (given and targets):
        raise UsageError(
            "several budgets that contradict each other",
            got=" and ".join(flag(name) for name in given + targets),
            expected="a ratio, ratios by layer, or targets",
        )
    if "latency_table" in names and "target_latency" not in names:
        raise UsageError("--latency-table is of no use alone", hint="--target-latency 0.6x")


def _check_low_rank(settings: Settings, given: Collection[str]) -> None:
    """Refuse what tells nothing of ranks: ratios are of channels, tables of layers that are one."""
    if not given and settings.zeroes:  # nothing is taken for granted then
        raise UsageError("--low-rank: no budget that ranks could meet", hint="--target-macs 60%")
    idle = [flag(name) for name in given if name in (*RATIOS, "target_latency", "latency_table")]
    idle += ["--allocation uniform"] if settings.allocation == "uniform" else []
    if idle:
        raise UsageError(
            "--low-rank: can't go with settings that choose no ranks",
            got=", ".join(idle),
            expected="--target-macs, --target-params, --target-size or --max-drop",
        )


def is_fraction(value: object) -> bool:
    """Whether a value is a number between 0 and 1, both excluded."""
    return _is_number(value) and 0 < value < 1  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_list_of(is_right: Callable[[Any], bool], value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_right, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_numbers(value: object) -> bool:
    return _is_number(value) or _is_list_of(_is_number, value)


def _are_pixels(value: object) -> bool:
    return _is_whole(value) or _is_list_of(_is_whole, value)


def _is_latency(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or value[1] not in ("ms", "x"):
        return False
    return _is_number(value[0]) and 0 < value[0] < math.inf


def _are_globs(value: object) -> bool:
    return _is_list_of(_is_text, value)


def _are_paths(value: object) -> bool:
    return _is_list_of(lambda path: isinstance(path, (str, Path)), value)


def _are_shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and _is_list_of(lambda size: _is_whole(size) and size > 0, shape)
        for name, shape in value.items()
    )


_NAMES = {
    "criterion": tuple(CRITERIA),
    "reap_space": ("patch", "channel"),
    "allocation": ("pro", "local", "uniform"),
    "metric": ("auto", "kl", "error"),
    "low_rank": (None, "also", "only"),
}


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_drop": (is_fraction, "between 0 and 1"),
    "evaluate": (lambda v: callable(v) or _is_text(v), "module:function, or a function"),
    "input_shapes": (_are_shapes, 'shapes by input, such as {"x": (1, 3, 224, 224)}'),
    "layer_ratios": (lambda v: isinstance(v, (Mapping, str, Path)), "ratios by glob, or a path"),
    "target_latency": (_is_latency, 'milliseconds "5ms", or a factor "0.6x"'),
    "latency_table": (lambda v: isinstance(v, (LatencyTable, str, Path)), "a table, or a path"),
    "include": (_are_globs, "a list of globs"),
    "exclude": (_are_globs, "a list of globs"),
    "custom_op_library": (_are_paths, "a list of paths"),
    "resize": (_are_pixels, "pixels, or height and width"),
    "crop": (_are_pixels, "pixels, or height and width"),
    "mean": (_are_numbers, "a number, or one a channel"),
    "std": (_are_numbers, "a number, or one a channel"),
    "scale": (_is_number, "a number"),
    "joint_refit": (lambda v: _is_whole(v) and v >= 0, "a whole number, at least 0, or auto"),
    "tile": (is_tile, "rows and columns, such as 8x1"),
    "tile_sparsity": (is_fraction, "between 0 and 1"),
    "pattern": (lambda v: v == "2:4", "2:4"),
    "permutation": (lambda v: isinstance(v, bool), "True or False"),
    "lossless": (lambda v: isinstance(v, bool), "True or False"),
    "vanish": (lambda v: isinstance(v, bool), "True or False"),
    "refit": (lambda v: isinstance(v, bool), "True or False"),
    "provider": (_is_text, "a name, such as cpu or cuda"),
}


def flag(name: str) -> str:
    """Return what the command calls a setting."""
    return "--" + name.replace("_", "-")
