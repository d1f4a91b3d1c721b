"""Operators that treat each channel alone, and those that couple positions along an axis."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_reap.graph.labels.labels import first_along
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.movement import correct_sizes
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait


def _windowed(site: Site) -> None:
    """Pooling: channels pass, space shrinks; every position of a channel must be alike."""
    labels = site.labels()
    site.set_labels(site.uniform(labels, range(2, labels.ndim)))


def _per_channel(parameters: Sequence[int]) -> Callable[[Site], None]:
    """Make the flow of a normalisation whose parameters have one entry per channel."""

    def flow(site: Site) -> None:
        labels = site.labels()
        site.set_labels(site.uniform(labels, range(2, labels.ndim)))
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
    labels = site.labels()
    for index in site.inputs()[1:]:
        if index == 3:
            site.value(index)  # sizes, which may count channels: they are corrected after a cut
        else:
            site.labels(index)
    before, after = site.shape(), site.output_shape()
    changed = [axis for axis, size in enumerate(before) if size != after[axis]]
    site.set_labels(site.uniform(labels, changed))


def _coupled(axes: Callable[[Site], Sequence[int]], *, keeps_shape: bool) -> Callable[[Site], None]:
    """Make the flow of an operator that couples all positions along some axes."""

    def flow(site: Site) -> None:
        labels = site.labels(0)
        coupled = [axis % labels.ndim for axis in axes(site)]
        varying = set(site.varying(labels))
        if varying and varying <= set(coupled):
            site.freeze(labels, f"{site.op} runs across channels")
            return
        # Where channels lie along another axis as well, what is coupled goes as one.
        labels = np.broadcast_to(site.uniform(labels, coupled), labels.shape)
        if not keeps_shape:
            labels = first_along(labels, coupled)
            if site.attribute("keepdims", 1) != 1:  # onnxruntime takes all else for no
                labels = labels.reshape([s for i, s in enumerate(labels.shape) if i not in coupled])
        site.set_labels(labels)

    return flow


def _reduced_axes(site: Site) -> Sequence[int]:
    axes = site.parameter(1, "axes")
    if axes is None or not axes.size:
        idle = site.attribute("noop_with_empty_axes", 0)
        return [] if idle else range(len(site.shape(0)))
    return [int(axis) for axis in axes]


def _reduction(site: Site) -> None:
    _coupled(_reduced_axes, keeps_shape=False)(site)


def _softmax_axes(site: Site) -> Sequence[int]:
    rank = len(site.shape(0))
    if site.opset >= 13:
        return [site.attribute("axis", -1)]
    return range(site.axis(site.attribute("axis", 1)), rank)  # flattens what follows the axis


def _softmax(site: Site) -> None:
    _coupled(_softmax_axes, keeps_shape=True)(site)


def _one_axis(default: int) -> Callable[[Site], Sequence[int]]:
    return lambda site: [site.attribute("axis", default)]


def _arg_extreme(site: Site) -> None:
    _coupled(_one_axis(0), keeps_shape=False)(site)


def _from_axis(site: Site) -> Sequence[int]:
    return range(site.axis(site.attribute("axis", -1)), len(site.shape(0)))


def _layer_normalization(site: Site) -> None:
    _coupled(_from_axis, keeps_shape=True)(site)
    for index in site.inputs()[1:]:
        if site.is_constant(index):
            site.bind_aligned(index)


def _mean_variance_axes(site: Site) -> Sequence[int]:
    return list(site.attribute("axes", [0, 2, 3]))


def _group_normalization(site: Site) -> None:
    """Let the channels of a group, which are normalised together, go together."""
    labels, count = site.labels(), int(site.attribute("num_groups"))
    thin = site.uniform(labels, [axis for axis in range(labels.ndim) if axis != 1])
    if site.opset < 21 or thin.size % count:  # older versions scale whole groups
        site.freeze(labels, "GroupNormalization with a scale for each group")
        return
    groups = thin.reshape(count, -1)
    site.unite(groups, groups[:, :1], "normalises with")
    site.set_labels(thin)
    for index in (1, 2):
        if site.is_constant(index):
            site.bind(index, 0, site.output_name(), 1)


def _correct_groups(node: Correction) -> None:
    each = node.before.shape()[1] // node.attribute("num_groups")
    node.node.attrs["num_groups"] = node.shape()[1] // each


def _lrn(site: Site) -> None:
    """Each channel needs its neighbours, but what comes out can be picked from."""
    site.freeze(site.labels(), "LRN runs across channels")
    site.fresh(axis=1)


def _correct_lrn(node: Correction) -> None:
    if (cut := node.kept(node.output_name())) is not None:
        node.pick_output(*cut)


def _cumsum_axes(site: Site) -> Sequence[int]:
    axis = site.value(1)
    return range(len(site.shape(0))) if axis is None else [int(np.ravel(axis)[0])]


def _reversed_axes(site: Site) -> Sequence[int]:
    site.ignore(1)  # a length for every entry of the batch
    return [site.attribute("time_axis", 0), site.attribute("batch_axis", 1)]


_POOL = Trait.POOLS | Trait.OWN_CHANNEL
_REDUCTION = Trait.REDUCES | Trait.OWN_CHANNEL

_POOLINGS: Mapping[str, Trait] = {
    "AveragePool": _POOL | Trait.HOMOGENEOUS | Trait.LINEAR | Trait.KEEPS_INNER_CONSTANTS,
    "GlobalAveragePool": _POOL | Trait.LINEAR | Trait.AVERAGES | Trait.KEEPS_CONSTANTS,
    "GlobalLpPool": _POOL,
    "GlobalMaxPool": _POOL | Trait.HOMOGENEOUS | Trait.KEEPS_CONSTANTS,
    "LpPool": _POOL,
    "MaxPool": _POOL | Trait.HOMOGENEOUS | Trait.SELECTS | Trait.KEEPS_INNER_CONSTANTS,
}

_REDUCTIONS: Mapping[str, Trait] = {
    "ReduceL1": _REDUCTION,
    "ReduceL2": _REDUCTION,
    "ReduceLogSum": _REDUCTION,
    "ReduceLogSumExp": _REDUCTION,
    "ReduceMax": _REDUCTION | Trait.HOMOGENEOUS | Trait.SELECTS | Trait.KEEPS_CONSTANTS,
    "ReduceMean": _REDUCTION | Trait.LINEAR | Trait.AVERAGES | Trait.KEEPS_CONSTANTS,
    "ReduceMin": _REDUCTION | Trait.HOMOGENEOUS | Trait.SELECTS,
    "ReduceProd": _REDUCTION,
    "ReduceSum": _REDUCTION | Trait.HOMOGENEOUS | Trait.LINEAR,
    "ReduceSumSquare": _REDUCTION,
}

PER_CHANNEL: dict[str, Rule] = {
    **{op: Rule(_windowed, traits=traits) for op, traits in _POOLINGS.items()},
    **{op: Rule(_reduction, traits=traits) for op, traits in _REDUCTIONS.items()},
    "Softmax": Rule(_softmax, traits=Trait.OWN_CHANNEL | Trait.SATURATES),
    "LogSoftmax": Rule(_softmax, traits=Trait.OWN_CHANNEL),
    "Hardmax": Rule(_softmax, traits=Trait.OWN_CHANNEL | Trait.JUMPS),
    "ArgMax": Rule(_arg_extreme, traits=Trait.OWN_CHANNEL | Trait.JUMPS),
    "ArgMin": Rule(_arg_extreme, traits=Trait.OWN_CHANNEL | Trait.JUMPS),
    "LpNormalization": Rule(_coupled(_one_axis(-1), keeps_shape=True), traits=Trait.OWN_CHANNEL),
    "LRN": Rule(_lrn, _correct_lrn),
    "ReverseSequence": Rule(
        _coupled(_reversed_axes, keeps_shape=True), traits=Trait.OWN_CHANNEL | Trait.SELECTS
    ),
    "CumSum": Rule(_coupled(_cumsum_axes, keeps_shape=True), traits=Trait.OWN_CHANNEL),
    "LayerNormalization": Rule(
        _layer_normalization, traits=Trait.OWN_CHANNEL | Trait.KEEPS_CONSTANTS
    ),
    "RMSNormalization": Rule(
        _layer_normalization, traits=Trait.OWN_CHANNEL | Trait.KEEPS_CONSTANTS
    ),
    "MeanVarianceNormalization": Rule(
        _coupled(_mean_variance_axes, keeps_shape=True), traits=Trait.OWN_CHANNEL
    ),
    "GroupNormalization": Rule(_group_normalization, _correct_groups),
    "BatchNormalization": Rule(
        _batch_normalization, traits=Trait.OWN_CHANNEL | Trait.KEEPS_CONSTANTS | Trait.SCALES
    ),
    "InstanceNormalization": Rule(
        _per_channel((1, 2)), traits=Trait.OWN_CHANNEL | Trait.KEEPS_INNER_CONSTANTS
    ),
    "Resize": Rule(
        _scaled,
        correct_sizes(3, axes="axes"),
        Trait.OWN_CHANNEL | Trait.LINEAR | Trait.KEEPS_INNER_CONSTANTS,
    ),
    "Upsample": Rule(_scaled, traits=Trait.OWN_CHANNEL),
}
