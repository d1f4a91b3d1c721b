"""Pointwise operators: labels that meet are united, constants follow the channels that they meet."""

from __future__ import annotations

import numpy as np

from ..labels import LabelArray
from ..site import Site
from .rule import Rule


def _pointwise(site: Site) -> None:
    """Unite what meets under NumPy broadcasting."""
    rank = len(site.output_shape())
    present = [i for i in range(len(site.node.inputs)) if site.has_input(i)]
    arrays = {i: _aligned(site.labels(i), rank) for i in present if not site.is_constant(i)}
    channel_axes = {axis for labels in arrays.values() for axis in site.varying(labels)}
    meeting = []
    for labels in arrays.values():
        if _spreads(site, labels, channel_axes):
            # One channel that scales many (a spatial gate) ties them to nothing, but must stay.
            site.freeze(labels, f"{site.op} spreads a single channel over others")
        else:
            meeting.append(labels)
    for labels in meeting[1:]:
        site.unite(meeting[0], labels)
    site.set_labels(meeting[0] if meeting else np.zeros((1,) * rank, np.int64))
    for index in present:
        if site.is_constant(index):
            bind_aligned(site, index)


def bind_aligned(site: Site, index: int) -> None:
    """Let a constant follow the output's axes that it meets under broadcasting."""
    shape, rank = site.shape(index), len(site.output_shape())
    for axis, size in enumerate(shape):
        if size > 1:
            site.bind(index, axis, site.output_name(), rank - len(shape) + axis)


def _aligned(labels: LabelArray, rank: int) -> LabelArray:
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def _spreads(site: Site, labels: LabelArray, channel_axes: set[int]) -> bool:
    """Whether an operand has length 1 along an axis of channels, or is one channel that grows."""
    grows = [a for a, size in enumerate(site.output_shape()) if labels.shape[a] == 1 and size > 1]
    if not grows:
        return False
    return bool(channel_axes.intersection(grows)) or not site.varying(labels)


def _prelu(site: Site) -> None:
    labels = site.labels(0)
    site.set_labels(labels)
    if site.is_constant(1):
        bind_aligned(site, 1)
    else:
        site.freeze(labels, "PRelu with a computed slope")


def _unary(site: Site) -> None:
    """Pass labels through; the other inputs are scalars, the other outputs carry none."""
    site.set_labels(site.labels(0))


_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Shrink Dropout
""".split()

_MANY = """
    Add Sub Mul Div Mod Pow Sum Mean Min Max Where And Or Xor Equal Greater GreaterOrEqual Less
    LessOrEqual BitwiseAnd BitwiseOr BitwiseXor
""".split()

POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, Rule(_unary)),
    **dict.fromkeys(_MANY, Rule(_pointwise)),
    "PRelu": Rule(_prelu),
}

