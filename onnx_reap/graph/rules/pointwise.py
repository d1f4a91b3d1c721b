"""Pointwise operators: labels that meet are united, constants follow what they meet."""

from collections.abc import Mapping, Set

import numpy as np

from onnx_reap.graph.labels.labels import LabelArray, raise_rank
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait


def _pointwise(site: Site) -> None:
    """Unite what meets under NumPy broadcasting."""
    rank = len(site.output_shape())
    arrays = [raise_rank(site.labels(i), rank) for i in site.inputs() if not site.is_constant(i)]
    axes = [set(site.varying(labels)) for labels in arrays]
    meeting = []
    for index, labels in enumerate(arrays):
        if _spreads(site, labels, set[int]().union(*axes[:index], *axes[index + 1 :])):
            # One channel that scales many (a spatial gate) ties them to nothing, but must stay.
            site.freeze(labels, f"{site.op} spreads a single channel over others")
        else:
            meeting.append(labels)
    for labels in meeting[1:]:
        site.unite(meeting[0], labels)
    site.set_labels(meeting[0] if meeting else np.zeros((1,) * rank, np.int64))
    for index in site.inputs():
        if site.is_constant(index):
            site.bind_aligned(index)


def _spreads(site: Site, labels: LabelArray, others: Set[int]) -> bool:
    """Whether an operand has length 1 wherever others have channels, or is one channel that grows.

    Parameters
    ----------
    others : set of int
        Axes along which the other operands' labels vary. What has length 1 along some of them and
        not along all meets channels after all.
    """
    grows = {a for a, size in enumerate(site.output_shape()) if labels.shape[a] == 1 and size > 1}
    if others:
        return others <= grows
    return bool(grows) and not site.varying(labels)


def _prelu(site: Site) -> None:
    site.set_labels(site.labels())
    if site.is_constant(1):
        site.bind_aligned(1)


def _unary(site: Site) -> None:
    """Pass labels through; the other inputs are scalars, the other outputs of the same shape."""
    for index in range(len(site.node.outputs)):
        site.set_labels(site.labels(), index)


def _quantisation(site: Site) -> None:
    """Pass labels through; scales and zero points are constants, one or one for every channel."""
    labels, shape = site.labels(), site.shape()
    parameters = site.inputs()[1:]
    known = all(site.is_constant(i) and len(site.shape(i)) <= 1 for i in parameters)
    if not known or site.attribute("block_size", 0):
        site.freeze_inputs(f"{site.op} with a computed scale, or one for each block")
        return
    site.set_labels(labels)
    for index in parameters:
        axis = int(site.attribute("axis", 1))
        if site.shape(index) not in ((), (1,)):
            site.bind(index, 0, site.output_name(), axis % len(shape))
        else:
            site.ignore(index)


_MAP = Trait.POINTWISE | Trait.OWN_CHANNEL
_CARRYING_MAP = _MAP | Trait.KEEPS_CONSTANTS
_BINARY = _MAP | Trait.BROADCASTS
_CARRYING_BINARY = _BINARY | Trait.KEEPS_CONSTANTS
_COMPARISON = _BINARY | Trait.JUMPS

_UNARY: Mapping[str, Trait] = {
    "Abs": _CARRYING_MAP | Trait.HOMOGENEOUS,
    "Acos": _MAP,
    "Acosh": _MAP,
    "Asin": _MAP,
    "Asinh": _MAP,
    "Atan": _MAP,
    "Atanh": _MAP,
    "BitwiseNot": _MAP,
    "Ceil": _MAP | Trait.JUMPS,
    "Celu": _CARRYING_MAP,
    "Clip": _CARRYING_MAP | Trait.FUSES,
    "Cos": _MAP,
    "Cosh": _MAP,
    "Dropout": Trait.POINTWISE | Trait.KEEPS_CONSTANTS,
    "Elu": _CARRYING_MAP,
    "Erf": _CARRYING_MAP,
    "Exp": _CARRYING_MAP,
    "Floor": _MAP | Trait.JUMPS,
    "Gelu": _CARRYING_MAP,
    "HardSigmoid": _CARRYING_MAP | Trait.SATURATES | Trait.FUSES,
    "HardSwish": _CARRYING_MAP,
    "IsInf": _MAP | Trait.JUMPS,
    "IsNaN": _MAP | Trait.JUMPS,
    "LeakyRelu": _CARRYING_MAP | Trait.HOMOGENEOUS | Trait.FUSES,
    "Log": _CARRYING_MAP,
    "Mish": _CARRYING_MAP,
    "Neg": _CARRYING_MAP,
    "Not": _MAP,
    "Reciprocal": _CARRYING_MAP,
    "Relu": _CARRYING_MAP | Trait.HOMOGENEOUS | Trait.FUSES,
    "Round": _MAP | Trait.JUMPS,
    "Selu": _CARRYING_MAP,
    "Shrink": _MAP,
    "Sigmoid": _CARRYING_MAP | Trait.SATURATES | Trait.FUSES,
    "Sign": _MAP | Trait.JUMPS,
    "Sin": _MAP,
    "Sinh": _MAP,
    "Softplus": _CARRYING_MAP,
    "Softsign": _MAP,
    "Sqrt": _CARRYING_MAP,
    "Swish": _CARRYING_MAP,
    "Tan": _MAP,
    "Tanh": _CARRYING_MAP | Trait.SATURATES | Trait.FUSES,
    "ThresholdedRelu": _CARRYING_MAP,
}

_BROADCASTING: Mapping[str, Trait] = {
    "Add": _CARRYING_BINARY | Trait.ADDS,
    "And": _BINARY,
    "BitwiseAnd": _BINARY,
    "BitwiseOr": _BINARY,
    "BitwiseXor": _BINARY,
    "Div": _CARRYING_BINARY | Trait.SCALES,
    "Equal": _COMPARISON,
    "Greater": _COMPARISON,
    "GreaterOrEqual": _COMPARISON,
    "Less": _COMPARISON,
    "LessOrEqual": _COMPARISON,
    "Max": _CARRYING_BINARY | Trait.CHOOSES,
    "Mean": _BINARY,
    "Min": _CARRYING_BINARY | Trait.CHOOSES,
    "Mod": _BINARY | Trait.JUMPS,
    "Mul": _CARRYING_BINARY | Trait.SCALES,
    "Or": _BINARY,
    "Pow": _CARRYING_BINARY,
    "Sub": _CARRYING_BINARY | Trait.SUBTRACTS,
    "Sum": _CARRYING_BINARY | Trait.ADDS,
    "Where": _BINARY | Trait.CHOOSES,
    "Xor": _BINARY,
}

POINTWISE: dict[str, Rule] = {
    **{op: Rule(_unary, traits=traits) for op, traits in _UNARY.items()},
    **{op: Rule(_pointwise, traits=traits) for op, traits in _BROADCASTING.items()},
    "DequantizeLinear": Rule(_quantisation, traits=_MAP | Trait.QUANTISES),
    "QuantizeLinear": Rule(_quantisation, traits=_MAP | Trait.QUANTISES | Trait.JUMPS),
    "PRelu": Rule(_prelu, traits=_CARRYING_MAP | Trait.HOMOGENEOUS),
}
