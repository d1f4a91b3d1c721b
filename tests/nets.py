"""Small networks in which channels can change places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from net import Net
from small_models import chain


def residual() -> onnx.ModelProto:
    """Two blocks on one stream, and a projection onto a wider one."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 16)
    for width in (12, 8):
        inner = n.norm(n.conv(n.block(h, 16, width), width, 16, bias=False), 16)
        h = n.node("Relu", n.node("Add", h, inner))
    wide = n.norm(n.conv(h, 16, 24, 1, bias=False, strides=[2, 2]), 24)
    inner = n.block(h, 16, 24, strides=[2, 2])
    h = n.node("Relu", n.node("Add", wide, n.conv(inner, 24, 24)))
    return n.model(n.head(h, 24, 5))


def residual_chain(
    blocks: int, channels: int, seed: int = 0, size: int = 8, **net
) -> onnx.ModelProto:
    """A stem and blocks of two convolutions, all on one stream."""
    n = Net({"x": ("N", 3, size, size)}, seed, **net)
    h = n.block("x", 3, channels)
    for _ in range(blocks):
        inner = n.block(h, channels, channels)
        inner = n.norm(n.conv(inner, channels, channels, bias=False), channels)
        h = n.node("Relu", n.node("Add", inner, h))
    return n.model(n.head(h, channels, 5))


def stem_and_branch(outputs: int) -> onnx.ModelProto:
    """Both the stem, which the shortcut carries on, and the branch lose channels."""
    n = Net({"x": ("N", 3, 6, 6)})
    stem = n.block("x", 3, 8)
    branch = n.norm(n.conv(n.block(stem, 8, 6), 6, 8, bias=False), 8)
    both = n.node("Relu", n.node("Add", branch, stem))
    return n.model(n.head(n.block(both, 8, 5), 5, outputs))


def in_two_groups(outputs: int) -> onnx.ModelProto:
    """A grouped convolution between two that aren't."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv(n.block("x", 3, 8), 8, 8, group=2))
    return n.model(n.head(n.block(h, 8, 6, 1), 6, outputs))


def mobile() -> onnx.ModelProto:
    """Inverted bottlenecks with a gate."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8)
    wide = n.block(n.block(h, 8, 32, 1), 32, 32, group=32)
    gate = n.node("Relu", n.conv(n.node("GlobalAveragePool", wide), 32, 8, 1))
    gate = n.node("Sigmoid", n.conv(gate, 8, 32, 1))
    out = n.norm(n.conv(n.node("Mul", wide, gate), 32, 8, 1, bias=False), 8)
    return n.model(n.head(n.node("Add", h, out), 8, 5))


def shuffled() -> onnx.ModelProto:
    """Grouped convolutions with a channel shuffle in between."""
    n = Net({"x": ("N", 4, 8, 8)})
    h = n.block(n.block("x", 4, 16), 16, 16, group=4)
    h = n.node("Reshape", h, n.constant(np.array([0, 4, 4, 8, 8])))
    h = n.node("Transpose", h, perm=[0, 2, 1, 3, 4])
    h = n.node("Reshape", h, n.constant(np.array([0, 16, 8, 8])))
    return n.model(n.head(n.block(h, 16, 16, group=4), 16, 5))


def joined() -> onnx.ModelProto:
    """Concatenation, split and a flattened map before a dense layer."""
    n = Net({"x": ("N", 3, 4, 4)})
    a, b = n.block("x", 3, 8), n.block("x", 3, 12)
    h = n.block(n.node("Concat", a, b, axis=1), 20, 16)
    left, right = n.node("Split", h, n.constant(np.array([8, 8])), outputs=2, axis=1)
    h = n.node("Flatten", n.block(n.node("Add", left, right), 8, 8))
    h = n.node("Relu", n.gemm(h, 128, 20))
    return n.model(n.gemm(h, 20, 5))


def pixels() -> onnx.ModelProto:
    """A pixel shuffle, whose units are four channels each."""
    n = Net({"x": ("N", 3, 4, 4)})
    h = n.node("DepthToSpace", n.block("x", 3, 32), blocksize=2)
    return n.model(n.head(n.block(h, 8, 8), 8, 5))


def padded() -> onnx.ModelProto:
    """A shortcut that widens by padding its channels with zeros."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8)
    wide = n.node("Pad", h, n.constant(np.array([0, 4, 0, 0, 0, 4, 0, 0])))
    inner = n.conv(n.block(h, 8, 16), 16, 16)
    return n.model(n.head(n.node("Relu", n.node("Add", wide, inner)), 16, 5))


def neighbours() -> onnx.ModelProto:
    """LRN makes channels out of neighbours, which must stay neighbours."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("LRN", n.block("x", 3, 8), size=3, alpha=0.5)
    return n.model(n.head(n.block(h, 8, 8), 8, 5))


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    each.__name__: each
    for each in (chain, residual, mobile, shuffled, joined, pixels, padded, neighbours)
}
