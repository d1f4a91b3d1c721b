"""Models in float16, bfloat16 and float64: pruned as in float32, written in their own type."""

from __future__ import annotations
