"""Numbers that the solvers refuse, since data or weights may hold them."""

import array_api_compat as compat

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import Array, to_host


class NotFiniteError(ReapError):
    """An array that holds NaN or infinity; whoever knows where it is from says so instead."""


def check_finite(name: str, x: Array) -> None:
    """Refuse an array that holds NaN or infinity."""
    xp = compat.array_namespace(x)
    if not to_host(xp.isfinite(xp.sum(x))):  # any NaN or infinity survives a sum
        raise NotFiniteError(
            f"{name} is not finite", hint="look for NaN or overflow in the calibration data"
        )
