"""Kinds of values that options take: how a text becomes a value, and which values are valid."""

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from onnx_reap.errors import UsageError

_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LATENCIES = {
    "ms": (1, "ms"),
    "us": (1e-3, "ms"),
    "s": (1e3, "ms"),
    "x": (1, "x"),
    "%": (0.01, "x"),
}


@dataclass(frozen=True)
class Kind:
    """What an option's value may be."""

    expected: str  # The valid values, for messages
    metavar: str  # What the help puts for a value
    is_valid: Callable[[Any], bool]  # Whether a value, as Python passes it, is valid
    # Makes a text a value; a ValueError, or an invalid value, refuses the text
    read: Callable[[str], Any] = str
    # Makes one value of those that a repeated flag gave; without it, a flag can't be repeated
    collect: Callable[[list[Any]], Any] | None = None
    as_text: bool = False  # Whether Python may pass what the command takes, too

    def parse(self, text: str) -> Any:
        """Read a text, one of several if the flag is repeatable.

        Raises
        ------
        ArgumentTypeError
        """
        try:
            value = self.read(text)
            if self.is_valid(self.collect([value]) if self.collect else value):
                return value
        except ValueError:
            pass
        raise ArgumentTypeError(f"invalid value | got: {text!r} | expected: {self.expected}")

    def accept(self, name: str, value: Any) -> Any:
        """Return a value that Python passes as the settings hold it.

        Raises
        ------
        UsageError
            If it isn't valid.
        """
        value = value.tolist() if hasattr(value, "tolist") else value
        if self.collect is list and isinstance(value, (str, Path)):
            value = [value]
        try:
            if self.as_text and isinstance(value, str):
                return self.parse(value)
        except ArgumentTypeError as error:
            raise UsageError(f"{name}: {error}") from None
        if not self.is_valid(value):
            raise UsageError(f"{name}: invalid value", got=repr(value), expected=self.expected)
        return value


def one_of(*names: str) -> Kind:
    """Return the kind of values that are one of some names."""
    expected = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return Kind(expected, f"{{{','.join(names)}}}", lambda v: isinstance(v, str) and v in names)


# How texts are read


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _share(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _target(text: str) -> float:
    scale = _SUFFIXES.get(text[-1:].lower())
    value = float(text[:-1]) * scale if scale else _share(text)
    if text.endswith("%") and value > 1:
        raise ValueError(text)
    return value


def _latency(text: str) -> tuple[float, str]:
    for suffix, (factor, unit) in _LATENCIES.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor, unit
    raise ValueError(text)


def _duration(text: str) -> float:
    return float(text[:-1]) * _UNITS[text[-1:]] if text[-1:] in _UNITS else float("nan")


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[,\s]+", text.strip("[]() ")) if part]


def _pixels(text: str) -> int | tuple[int, ...]:
    sizes = tuple(_whole(part) for part in _parts(text.replace("x", ",")))
    return sizes[0] if len(sizes) == 1 else sizes


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, lengths = text.rpartition(":")  # the name may hold colons
    if not name:
        raise ValueError(text)
    return name, tuple(_whole(length) for length in lengths.split(","))


def _by_name(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    named = dict(shapes)
    if len(named) < len(shapes):
        raise UsageError("--input-shapes names an input twice", got=", ".join(n for n, _ in shapes))
    return named


# Which values are valid


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0  # type: ignore[operator]


def _is_fraction(value: object) -> bool:
    return _is_number(value) and 0 < value < 1  # type: ignore[operator]


def _is_path(value: object) -> bool:
    return isinstance(value, (str, Path))


def _list_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(map(is_valid, value))


_are_numbers, _are_sizes = _list_of(_is_number), _list_of(_is_whole)


def _are_shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and _are_sizes(shape) for name, shape in value.items()
    )


def _is_latency(value: object) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and _is_positive(value[0]) and value[1] in ("ms", "x")  # type: ignore[index]


def _is_tile(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", value))


def _is_table(value: object) -> bool:
    return _is_path(value) or (is_dataclass(value) and hasattr(value, "whole_ms"))


def _or_auto(least: int) -> Kind:
    return Kind(
        f"an integer >= {least}, or auto",
        "N|auto",
        lambda v: v is None or _is_whole(v, least),
        lambda text: None if text == "auto" else _whole(text),
        as_text=True,
    )


SWITCH = Kind("True or False", "", lambda v: isinstance(v, bool))
POSITIVE = Kind("an integer >= 1", "N", _is_whole, _whole)
SEED = Kind("an integer >= 0", "N", lambda v: _is_whole(v, 0), _whole)
MULTIPLE, PASSES = _or_auto(1), _or_auto(0)
NUMBER = Kind("a number", "X", _is_number, float)
NUMBERS = Kind(
    "a number, or one a channel",
    "X,X,X",
    lambda v: _is_number(v) or (_are_numbers(v) and len(v) > 0),
    lambda text: tuple(map(float, _parts(text))),
)
FRACTION = Kind(
    "a fraction between 0 and 1, such as 0.3 or 30%", "X", _is_fraction, _share, as_text=True
)
FRACTIONS = Kind(
    "fractions between 0 and 1, such as 0.8,0.6,0.4",
    "X,X,X",
    lambda v: _list_of(_is_fraction)(v) and len(v) > 0,
    lambda text: tuple(map(_share, _parts(text))),
)
TARGET = Kind(
    "a fraction of the original, such as 0.6 or 60%, or a number, such as 250k, 500M or 1.2G",
    "X",
    _is_positive,
    _target,
    as_text=True,
)
LATENCY = Kind(
    "a time, such as 5ms, or a factor of the original's, such as 0.6x or 60%",
    "T",
    _is_latency,
    _latency,
    as_text=True,
)
DURATION = Kind(
    "a time, such as 90s, 5m or 1h; a number in Python means seconds",
    "T",
    _is_positive,
    _duration,
    as_text=True,
)
PIXELS = Kind(
    "pixels, such as 224 or 224,320",
    "N|H,W",
    lambda v: _is_whole(v) or (_are_sizes(v) and len(v) == 2),
    _pixels,
)
SHAPES = Kind("shapes by input, such as x:1,3,224,224", "NAME:SHAPE", _are_shapes, _shape, _by_name)
TILE = Kind("rows and columns, such as 8x1", "RxC", _is_tile)
NAME = Kind("a name", "NAME", lambda v: isinstance(v, str))
GLOBS = Kind("globs", "GLOB", _list_of(lambda v: isinstance(v, str)), collect=list)
PATH = Kind("a path", "FILE", _is_path, Path)
PATHS = Kind("paths", "FILE", _list_of(_is_path), Path, list)
RATIOS = Kind(
    "ratios by glob, or a path", "FILE", lambda v: _is_path(v) or isinstance(v, Mapping), Path
)
TABLE = Kind("a latency table, or a path", "FILE", _is_table, Path)
LABELS = Kind("one integer a sample, or a path", "FILE", lambda v: True, Path)
FUNCTION = Kind(
    "module:function, or a function",
    "MODULE:FUNCTION",
    lambda v: callable(v) or isinstance(v, str),
)
