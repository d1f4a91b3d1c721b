"""What can be said about zeros that are asked for, without a model."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from typing import Any

from onnx_reap import parsing
from onnx_reap.errors import UsageError


def check_zeros(given: Mapping[str, Any]) -> None:
    """Refuse zeros in two patterns, half of what a pattern takes, and bounds that they break.

    Parameters
    ----------
    given : mapping of str to object
        Settings by name; those at their defaults count as not given.

    Raises
    ------
    UsageError
    """
    tile, share, pattern = (given.get(name) for name in ("tile", "tile_sparsity", "pattern"))
    if tile is not None and pattern is not None:
        raise UsageError("--tile and --pattern: zeros can have one of them")
    if (tile is None) != (share is None):
        alone, other = (
            ("--tile", "--tile-sparsity 0.5")
            if share is None
            else ("--tile-sparsity", "--tile 8x1")
        )
        raise UsageError(f"{alone} is of no use alone", hint=f"give {other} too")
    if given.get("permutation") is False and tile is None and pattern is None:
        hint = "--tile 8x1 --tile-sparsity 0.5, or --pattern 2:4"
        raise UsageError(
            "--no-permutation: no pattern of zeros to put channels in order for", hint=hint
        )
    if (tile is not None or pattern is not None) and given.get("max_drop") is not None:
        raise UsageError(
            "--max-drop: bounds what channels lose, and zeros come on top",
            hint="another budget, or none; the report tells the loss",
        )


def is_tile(value: object) -> bool:
    """Whether a value names rows and columns, `8x1`."""
    try:
        return isinstance(value, str) and bool(parsing.tile(value))
    except ArgumentTypeError:
        return False
