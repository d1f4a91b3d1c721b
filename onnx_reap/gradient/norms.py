"""Gradients of normalizations."""

from __future__ import annotations

import onnx

from onnx_reap.gradient.tape import Tape, attributes


def batch_norm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a BatchNormalization that does not train."""
    gamma, variance = tape.values(node.input[1]), tape.values(node.input[4])
    scale = gamma / (variance + attributes(node).get("epsilon", 1e-5)) ** 0.5
    rank = len(tape.shapes[node.input[0]])
    return tape.op("Mul", dy, tape.floats(scale.reshape(-1, *[1] * (rank - 2))))
