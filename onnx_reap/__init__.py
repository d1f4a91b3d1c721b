"""onnx-reap: prune channels of trained ONNX models and repair the rest by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx_reap.errors import ReapError
from onnx_reap.version import __version__

if TYPE_CHECKING:
    from onnx_reap.pipeline import Result, cut, mask, reap
    from onnx_reap.plan.plan import Plan

__all__ = ["Plan", "ReapError", "Result", "__version__", "cut", "mask", "reap"]


def __getattr__(name: str) -> Any:
    """Import the pipeline only when it is asked for: it is what takes time."""
    if name == "Plan":
        from onnx_reap.plan.plan import Plan

        return Plan
    if name in __all__:
        from onnx_reap import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
