"""Types that weights are stored in, and what numbers become in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def is_half(dtype: npt.DTypeLike) -> bool:
    """Whether numbers are stored in 16 bits."""
    return np.dtype(dtype).itemsize == 2


def cast(values: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """Convert numbers; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def rounded(values: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """Round numbers to a type, and return them in their own."""
    return cast(values, dtype).astype(values.dtype)
