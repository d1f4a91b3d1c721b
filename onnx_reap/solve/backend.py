"""Where arrays live: NumPy on the host or CuPy on a GPU, chosen once and by name.

Everything else in this package takes its namespace from the arrays that it is given and follows the
array-API standard, so this is the only module that knows CuPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import array_api_compat as compat
import array_api_compat.numpy
import numpy as np

Array: TypeAlias = Any
"""An array of any array-API namespace."""


def to_host(x: Array) -> np.ndarray:
    """Copy an array to the host: the only way in which data leaves a device.

    Parameters
    ----------
    x : array of any shape, dtype and namespace

    Returns
    -------
    ndarray
        Same shape and dtype. A NumPy array is returned as it is.
    """
    if compat.is_numpy_array(x):
        return x
    return x.get() if compat.is_cupy_array(x) else np.from_dlpack(x)


def on_device(x: Any, like: Array) -> Array:
    """Put host data or an array next to another array.

    Parameters
    ----------
    x : array_like, any shape
        Host data (NumPy array, list) or an array that is already there.
    like : array
        Gives the namespace and the device.

    Returns
    -------
    array
        Not necessarily a copy.
    """
    xp = compat.array_namespace(like)
    return xp.asarray(x, device=compat.device(like))


@dataclass(frozen=True)
class Backend:
    """Where a run computes: a namespace and a device, and the way there and back."""

    xp: Any  # Array-API namespace
    device: Any

    @classmethod
    def cpu(cls) -> Backend:
        """Compute with NumPy."""
        return cls(array_api_compat.numpy, "cpu")

    @classmethod
    def gpu(cls) -> Backend | None:
        """Compute with CuPy on the first device; None where either is missing."""
        try:
            import cupy
        except ImportError:
            return None
        try:
            if cupy.cuda.runtime.getDeviceCount() == 0:
                return None
        except cupy.cuda.runtime.CUDARuntimeError:  # CuPy without a driver
            return None
        import array_api_compat.cupy

        return cls(array_api_compat.cupy, cupy.cuda.Device(0))

    def to_device(self, x: np.ndarray) -> Array:
        """Return a host array where the run computes; same shape and dtype."""
        return self.xp.asarray(x, device=self.device)

    def to_host(self, x: Array) -> np.ndarray:
        """Return an array of the run on the host; same shape and dtype."""
        return to_host(x)
