"""onnx-reap: prune channels of trained ONNX models and repair the rest by least squares."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_reap.errors import ReapError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from onnx_reap.api import cut, inspect, mask, profile, reap, sweep
    from onnx_reap.measure.latency.table import LatencyTable
    from onnx_reap.prune.plan import Plan
    from onnx_reap.report.inspection import Inspection
    from onnx_reap.report.result import Point, Result

__all__ = [
    "Inspection",
    "LatencyTable",
    "Plan",
    "Point",
    "ReapError",
    "Result",
    "__version__",
    "cut",
    "inspect",
    "mask",
    "profile",
    "reap",
    "sweep",
]

_HOMES = {
    "Inspection": "report.inspection",
    "LatencyTable": "measure.latency.table",
    "Plan": "prune.plan",
    "Point": "report.result",
    "Result": "report.result",
}
"""Modules of the names that aren't in `api`."""


def __getattr__(name: str) -> Any:
    """Import the rest only when it is asked for: it is what takes time."""
    if name in __all__:
        return getattr(import_module(f"onnx_reap.{_HOMES.get(name, 'api')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
