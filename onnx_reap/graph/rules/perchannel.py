"""Operators that treat each channel alone, and those that couple positions along an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..site import Site
from .movement import resize_shape_input
from .rule import Rule


def _windowed(site: Site) -> None:
    """Pooling: channels pass, space shrinks; every position of a channel must be alike."""
    labels = site.labels(0)
    if site.has_output(1) and site.node.outputs[1].outputs:
        site.freeze(labels, f"{site.op} returns indices that count channels")
    site.set_labels(site.uniform(labels, range(2, labels.ndim)))


def _per_channel(parameters: Sequence[int]) -> Callable[[Site], None]:
    """Make the flow of a normalisation whose parameters have one entry per channel."""

    def flow(site: Site) -> None:
        labels = site.labels(0)
        if not all(site.is_constant(index) for index in parameters):
            site.freeze(labels, f"{site.op} with computed parameters")
        thin = site.uniform(labels, range(2, labels.ndim))
        site.set_labels(thin)
        for index in parameters:
            if site.is_constant(index):
                site.bind(index, 0, site.output_name(), 1)

    return flow


def _batch_normalization(site: Site) -> None:
    if site.attribute("training_mode", 0):
        site.freeze(site.labels(0), "BatchNormalization in training mode")
    _per_channel((1, 2, 3, 4))(site)


def _scaled(site: Site) -> None:
    """Resize: axes that change length must carry equal labels."""
    labels = site.labels(0)
    before, after = site.shape(0), site.output_shape()
    changed = [axis for axis, size in enumerate(before) if size != after[axis]]
    # A coordinate map may also move samples along an axis that keeps its length: not along channels.
    site.set_labels(site.uniform(labels, changed))


def _coupled(axes: Callable[[Site], Sequence[int]], *, keeps_shape: bool) -> Callable[[Site], None]:
    """Make the flow of an operator that couples all positions along some axes."""

    def flow(site: Site) -> None:
        labels = site.labels(0)
        coupled = [axis % labels.ndim for axis in axes(site)]
        if set(coupled) & set(site.varying(labels)):
            site.freeze(labels, f"{site.op} runs across channels")
            return
        if not keeps_shape:
            labels = labels[tuple(slice(1) if i in coupled else slice(None) for i in range(labels.ndim))]
            if not site.attribute("keepdims", 1):
                labels = labels.reshape([s for i, s in enumerate(labels.shape) if i not in coupled])
        site.set_labels(labels)

    return flow


def _reduced_axes(site: Site) -> Sequence[int]:
    axes = site.parameter(1, "axes")
    if axes is None or not axes.size:
        idle = site.attribute("noop_with_empty_axes", 0)
        return [] if idle else range(len(site.shape(0)))
    return [int(axis) for axis in axes]


def _softmax_axes(site: Site) -> Sequence[int]:
    rank = len(site.shape(0))
    if site.opset >= 13:
        return [site.attribute("axis", -1)]
    return range(site.axis(site.attribute("axis", 1)), rank)  # flattens what follows the axis


def _one_axis(default: int) -> Callable[[Site], Sequence[int]]:
    return lambda site: [site.attribute("axis", default)]


def _from_axis(site: Site) -> Sequence[int]:
    return range(site.axis(site.attribute("axis", -1)), len(site.shape(0)))


def _layer_normalization(site: Site) -> None:
    _coupled(_from_axis, keeps_shape=True)(site)
    for index in (1, 2):
        if site.has_input(index) and site.is_constant(index):
            rank, shape = len(site.output_shape()), site.shape(index)
            for axis, size in enumerate(shape):
                if size > 1:
                    site.bind(index, axis, site.output_name(), rank - len(shape) + axis)



def _cumsum_axes(site: Site) -> Sequence[int]:
    axis = site.value(1)
    return range(len(site.shape(0))) if axis is None else [int(np.ravel(axis)[0])]


_POOLS = "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool".split()
_REDUCTIONS = """
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare
    ReduceLogSum ReduceLogSumExp
""".split()

PER_CHANNEL: dict[str, Rule] = {
    **dict.fromkeys(_POOLS, Rule(_windowed)),
    **dict.fromkeys(_REDUCTIONS, Rule(_coupled(_reduced_axes, keeps_shape=False))),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), Rule(_coupled(_softmax_axes, keeps_shape=True))),
    **dict.fromkeys(("ArgMax", "ArgMin"), Rule(_coupled(_one_axis(0), keeps_shape=False))),
    "LpNormalization": Rule(_coupled(_one_axis(-1), keeps_shape=True)),
    "LRN": Rule(_coupled(lambda site: [1], keeps_shape=True)),
    "CumSum": Rule(_coupled(_cumsum_axes, keeps_shape=True)),
    "LayerNormalization": Rule(_layer_normalization),
    "BatchNormalization": Rule(_batch_normalization),
    "InstanceNormalization": Rule(_per_channel((1, 2))),
    "Resize": Rule(_scaled, resize_shape_input(3)),  # type: ignore[arg-type]
    "Upsample": Rule(_scaled),
}
