"""Pointwise operators: labels that meet are united, constants follow what they meet."""

from collections.abc import Set

import numpy as np

from onnx_reap.graph.labels.labels import LabelArray, raise_rank
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait, operators


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


POINTWISE: dict[str, Rule] = {
    **dict.fromkeys(operators(Trait.POINTWISE), Rule(_unary)),
    **dict.fromkeys(operators(Trait.BROADCASTS), Rule(_pointwise)),
    "PRelu": Rule(_prelu),
}
