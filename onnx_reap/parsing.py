"""What users write for numbers, sizes and shapes."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_LATENCIES = (
    ("ms", 1, "ms"),
    ("us", 1e-3, "ms"),
    ("s", 1e3, "ms"),
    ("x", 1, "x"),
    ("%", 0.01, "x"),
)


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"got: {text!r} | expected: a number")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers between commas or spaces, `0.485,0.456,0.406`."""
    return tuple(number(part) for part in _parts(text))


def fraction(text: str) -> float:
    """Read a fraction between 0 and 1, `0.3` or `30%`."""
    value = _percent(text)
    if value is None or not 0 < value < 1:
        raise ArgumentTypeError(f"got: {text!r} | expected: a fraction, such as 0.3 or 30%")
    return value


def fractions(text: str) -> tuple[float, ...]:
    """Read fractions between commas or spaces, `0.9,0.7` or `90%,70%`."""
    return tuple(fraction(part) for part in _parts(text))


def tile(text: str) -> str:
    """Read rows and columns of a tile, `8x1`."""
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", text):
        raise ArgumentTypeError(f"got: {text!r} | expected: rows and columns, such as 8x1")
    return text


def target(text: str) -> float:
    """Read a fraction of the original (`0.6`, `60%`) or a number with a suffix (`1.2G`)."""
    value = _percent(text)
    if value is None:
        suffix = text[-1:].lower()
        value = _float(text[:-1]) * _SUFFIXES.get(suffix, math.nan)
    too_much = text.endswith("%") and value > 1
    if not (math.isfinite(value) and value > 0) or too_much:
        raise ArgumentTypeError(
            f"got: {text!r} | expected: a fraction of the original, such as 0.6 or 60%, or a "
            "number, such as 250k, 500M or 1.2G"
        )
    return value


def latency(text: str) -> tuple[float, str]:
    """Read a time (`5ms`, `800us`, `0.02s`) or a factor of the original's (`0.6x`, `60%`).

    Returns
    -------
    value : float
    unit : str
        `ms` or `x`.
    """
    for suffix, factor, unit in _LATENCIES:
        value = _float(text.removesuffix(suffix)) * factor
        if text.endswith(suffix) and 0 < value < math.inf:
            return value, unit
    raise ArgumentTypeError(
        f"got: {text!r} | expected: a time, such as 5ms, or a factor of the original's, such as "
        "0.6x or 60%"
    )


def positive(text: str) -> int:
    """Read a whole number, at least 1."""
    if not (text.isdecimal() and int(text)):
        raise ArgumentTypeError(f"got: {text!r} | expected: a whole number, at least 1")
    return int(text)


def seed(text: str) -> int:
    """Read a whole number, at least 0."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"got: {text!r} | expected: a whole number, at least 0")
    return int(text)


def round_to(text: str) -> int | None:
    """Read a whole number, or `auto` as None."""
    return None if text == "auto" else positive(text)


def passes(text: str) -> int | None:
    """Read a whole number, 0 included, or `auto` as None."""
    if text == "auto" or text.isdecimal():
        return None if text == "auto" else int(text)
    raise ArgumentTypeError(f"got: {text!r} | expected: a whole number, at least 0, or auto")


def size(text: str) -> int | tuple[int, int]:
    """Read one number of pixels, or height and width, `224` or `224,320`."""
    parts = [positive(part) for part in _parts(text.replace("x", ","))]
    if len(parts) > 2:
        raise ArgumentTypeError(f"got: {text!r} | expected: pixels, such as 224 or 224,320")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `name:1,3,224,224`; the name may hold colons."""
    name, colon, shape = text.rpartition(":")
    if not (name and colon and re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", shape)):
        raise ArgumentTypeError(f"got: {text!r} | expected: name:1,3,224,224")
    return name, tuple(int(length) for length in shape.split(","))


def _percent(text: str) -> float | None:
    """Read a plain number or a percentage; None for anything else."""
    value = _float(text[:-1]) / 100 if text.endswith("%") else _float(text)
    return value if math.isfinite(value) else None


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parts(text: str) -> list[str]:
    parts = [part for part in re.split(r"[,\s]+", text.strip("[]() ")) if part]
    if not parts:
        raise ArgumentTypeError(f"got: {text!r} | expected: numbers between commas")
    return parts
