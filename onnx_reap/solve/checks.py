"""What the public functions of this package demand of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import array_api_compat as compat
import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import Array, to_host

if TYPE_CHECKING:
    from onnx_reap.solve.removal import Consumer

LEAST_DAMPING = 1e-9
"""Relative to the mean diagonal. Of a singular Gram matrix float64 then leaves about 7 digits."""


def check_damping(damping: float) -> None:
    """Refuse a strength that isn't positive, or too small for float64; infinity is allowed."""
    if not damping >= LEAST_DAMPING:
        raise ReapError("damping is too small", got=f"{damping}", expected=f">= {LEAST_DAMPING}")


def check_finite(name: str, x: Array) -> None:
    """Refuse an array that holds NaN or infinity."""
    xp = compat.array_namespace(x)
    if not to_host(xp.isfinite(xp.sum(x))):  # any NaN or infinity survives a sum
        raise ReapError(
            f"{name} is not finite", hint="look for NaN or overflow in the calibration data"
        )


def check_shape(name: str, x: Array, expected: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if tuple(x.shape) != expected:
        raise ReapError(
            f"{name} has the wrong shape", got=f"{tuple(x.shape)}", expected=f"{expected}"
        )


def check_removal(
    consumers: Sequence[Consumer],
    columns: Sequence[np.ndarray],
    steps: int,
    damping: float,
    parts: Sequence[int] | None,
    order: Sequence[int] | None,
) -> None:
    """Refuse what `removal_path` can't work with; `columns` are on the host."""
    if not consumers:
        raise ReapError("consumers is empty", expected="at least one")
    check_damping(damping)
    if not np.isfinite(damping):
        raise ReapError("damping is infinite", expected="a finite strength", hint="1e-2")
    units = columns[0].shape[0]
    if not 1 <= steps <= units:
        raise ReapError("steps is out of range", got=f"{steps}", expected=f"1 to {units} units")
    for k, (consumer, cols) in enumerate(zip(consumers, columns, strict=True)):
        _check_consumer(f"consumers[{k}]", consumer, cols, units)
    if parts is not None:
        _check_parts(np.asarray(parts), units)
    if order is not None:
        _check_order(np.asarray(order), steps, units)


def _check_consumer(name: str, consumer: Consumer, columns: np.ndarray, units: int) -> None:
    D = consumer.gram.shape[-1]
    check_shape(f"{name}.gram", consumer.gram, (D, D))
    check_shape(f"{name}.weight", consumer.weight, (D, *consumer.weight.shape[1:2]))
    check_shape(f"{name}.columns", columns, (units, *columns.shape[1:2]))
    check_finite(f"{name}.gram", consumer.gram)
    check_finite(f"{name}.weight", consumer.weight)
    if not (columns >= 0).any():
        raise ReapError(f"{name} reads no unit", expected="a column for one unit at least")
    named = columns[columns >= 0]
    if columns.min() < -1 or columns.max() >= D or np.unique(named).size != named.size:
        raise ReapError(
            f"{name}.columns repeats an index or leaves the range",
            expected=f"different indices from 0 to {D - 1}, or -1 for none",
        )


def _check_parts(parts: np.ndarray, units: int) -> None:
    check_shape("parts", parts, (units,))
    sizes = np.unique(parts, return_counts=True)[1]
    if np.unique(sizes).size > 1:
        raise ReapError("parts differ in size", got=f"{sizes.tolist()}", expected="equal counts")


def _check_order(order: np.ndarray, steps: int, units: int) -> None:
    head = order[:steps]
    if order.ndim != 1 or np.setdiff1d(head, np.arange(units)).size or np.unique(head).size < steps:
        raise ReapError(
            "order is not a list of different units",
            got=f"{order.size} entries",
            expected=f"at least {steps} different indices from 0 to {units - 1}",
        )
