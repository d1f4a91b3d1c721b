"""Tests that an older onnxruntime can't pass."""

from __future__ import annotations

import onnxruntime
import pytest


def needs_onnxruntime(*least: int, why: str) -> pytest.MarkDecorator:
    """Skip where onnxruntime is older than this version, given by its numbers."""
    found = tuple(int(number) for number in onnxruntime.__version__.split(".")[: len(least)])
    wanted = ".".join(map(str, least))
    return pytest.mark.skipif(found < least, reason=f"needs onnxruntime >= {wanted}: {why}")
