"""onnx-reap: prune channels of trained ONNX models and repair the rest by least squares."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_reap.errors import ReapError
from onnx_reap.version import __version__

if TYPE_CHECKING:
    from onnx_reap.inspecting import inspect
    from onnx_reap.latency.table import LatencyTable
    from onnx_reap.pipeline import cut, mask, reap
    from onnx_reap.plan.plan import Plan
    from onnx_reap.profiling import profile
    from onnx_reap.report.inspection import Inspection
    from onnx_reap.result import Result
    from onnx_reap.sweeping import Point, sweep

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
    "LatencyTable": "latency.table",
    "Plan": "plan.plan",
    "Point": "sweeping",
    "Result": "result",
    "inspect": "inspecting",
    "sweep": "sweeping",
    "profile": "profiling",
}
"""Modules of the names that aren't the pipeline's."""


def __getattr__(name: str) -> Any:
    """Import the pipeline only when it is asked for: it is what takes time."""
    if name in __all__:
        return getattr(import_module(f"onnx_reap.{_HOMES.get(name, 'pipeline')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
