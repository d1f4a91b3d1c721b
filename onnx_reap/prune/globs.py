"""The user's globs on the names of nodes."""

from __future__ import annotations

import fnmatch

from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.options import Settings


def check_globs(analysis: Analysis, settings: Settings) -> None:
    """Refuse globs that match no node: a slip of the pen would go unnoticed.

    Raises
    ------
    ReapError
    """
    keys = [analysis.model.keys[id(node)] for node in analysis.model.nodes]
    for name in ("include", "exclude"):
        for pattern in getattr(settings, name):
            if not fnmatch.filter(keys, pattern):
                raise ReapError(
                    f"--{name}: matches no node",
                    got=pattern,
                    expected="globs on names such as "
                    + ", ".join(sorted(analysis.flow.makers)[:3]),
                )
