"""Gradients of pooling and of sums."""

from __future__ import annotations

import math

import onnx

from onnx_reap.gradient.tape import Tape


def global_average(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a GlobalAveragePool: every entry has an equal share."""
    x = node.input[0]
    share = tape.op("Div", dy, tape.floats(math.prod(tape.shapes[x][2:])))
    return tape.op("Expand", share, tape.op("Shape", x))
