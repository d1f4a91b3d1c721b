"""From moments and weights to the removal path of every group.

A consumer of a group is one of the independent maps of a linear node (a grouped convolution has
several). Its weight is scaled by what the following BatchNormalization makes of each output, so
that errors of consumers and of groups are in the same unit: that of the activations they are added
to.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.epilogue import find_epilogue
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.graph.uses import Refittable, by_weight
from onnx_reap.measure.activations.moments import Tap, one_per_weight
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.measure.sensitivity.output_metric import OutputMetric
from onnx_reap.prune.criteria.balance import balanced
from onnx_reap.solve.backend import Array, Backend
from onnx_reap.solve.moments import Moments
from onnx_reap.solve.removal import Consumer, RemovalPath, removal_path

DAMPING = 1e-2  # of the mean diagonal
WIDEST = 6000  # columns past which a channel's taps share one coefficient


def find_taps(analysis: Analysis, groups: Sequence[Group], space: str = "patch") -> list[Tap]:
    """List the layers whose inputs must be observed to choose channels.

    Layers that read one weight in the same way are observed as one.

    Parameters
    ----------
    space : {"patch", "channel"}
        Whether every tap of a kernel has coefficients of its own, or all taps of a channel share
        one wherever the layer has one map and reads no frozen channels.
    """
    widest = WIDEST if space == "patch" else 0
    wanted = {node for group in groups for node in group.consumers}
    flow, refittable, taps = analysis.flow, Refittable(analysis.model, analysis.probe), list[Tap]()
    for layers in by_weight(flow.linears):
        if not (readers := [layer for layer in layers if layer.node in wanted]):
            continue
        linear, *others = readers
        channels = len(flow.units_along(linear.x, linear.x_axis))
        columns = channels // linear.group * linear.taps
        fold = _fold(flow, linear) if columns > widest else None
        refitted = refittable.obstacle(layers) is None
        taps.append(Tap(linear, columns, fold, tuple(others), refitted))
    return taps


def group_path(
    group: Group,
    flow: Flow,
    model: Model,
    taps: Mapping[str, Tap],
    moments: Mapping[str, Moments],
    backend: Backend,
    *,
    steps: int,
    order: Sequence[int] | None = None,
    metrics: Mapping[str, OutputMetric] | None = None,
) -> tuple[RemovalPath, float]:
    """Return the order in which a group's units go with the error after each, and a scale for it.

    Parameters
    ----------
    order : sequence of int, optional
        Remove units in this order instead of the best one.
    metrics : mapping of str to OutputMetric, optional
        By node, what the model's outputs feel of its outputs; where all consumers have one, it
        tells which order is the best. Errors are those behind the consumers in any case.

    Returns
    -------
    variance : float
        Of all consumers' outputs, in the unit of the errors.
    """
    nodes = one_per_weight(group.consumers, taps)

    def consumers(metrics: Mapping[str, OutputMetric]) -> list[Consumer]:
        return [
            Consumer(
                gram[g, ...], backend.to_device(w), backend.to_device(columns), taps[node].refitted
            )
            for node in nodes
            for gram in [_gram(moments[node], taps[node])]
            for g, w, columns in readings(taps[node], group, flow, model, metrics.get(node))
        ]

    remove = partial(removal_path, steps=steps, damping=DAMPING, parts=group.parts)
    if nodes and order is None and metrics and all(node in metrics for node in nodes):
        order = remove(consumers(metrics)).order.tolist()
    plain = consumers({})
    if not plain:
        first = balanced(range(group.width), group.parts) if order is None else np.asarray(order)
        first = first[:steps]
        return RemovalPath(first, np.zeros(steps)), 0.0
    path = remove(plain, order=order)
    variance = sum(backend.xp.sum(c.weight * (c.gram @ c.weight)) for c in plain)
    return path, float(variance)


def _gram(moments: Moments, tap: Tap) -> Array:
    """Return the second moment of a layer's input, about 0 where no bias makes up for the mean."""
    mean = moments.mean_x
    return moments.gram if tap.refitted else moments.gram + mean[..., :, None] * mean[..., None, :]


def readings(
    tap: Tap, group: Group, flow: Flow, model: Model, metric: OutputMetric | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the maps of a layer that read units of a group.

    Yields
    ------
    g : int
        Which of the layer's independent maps.
    weight : (D, O) float64 array
        Each output scaled by what the normalisation behind makes of it; or else what the model's
        outputs feel of all outputs together, by the metric.
    columns : (U, B) int array
        Of each unit; -1 where it has fewer.
    """
    linear = tap.linear
    weight = weight_to_matrix(linear, model.constants()[linear.weight].values)
    outputs = weight.shape[2] * linear.group
    scale = find_epilogue(model, linear, outputs).scale.reshape(linear.group, 1, -1)
    weight = weight * scale if metric is None else weight @ metric.root(scale)
    weight *= np.sqrt(len(tap.layers))  # moments are means over all of them
    units = flow.units_along(linear.x, linear.x_axis)
    if tap.fold is not None:
        # Each column of a channel has outputs of its own: the errors of all are summed.
        weight = weight[:, tap.fold].reshape(1, len(tap.fold), -1)
        units = units[tap.fold[:, 0] // linear.taps]
    taps = 1 if tap.fold is not None else linear.taps
    for g, block in enumerate(np.split(units, linear.group)):
        columns = columns_of(group, block, taps)
        if (columns >= 0).any():
            yield g, np.ascontiguousarray(weight[g]), columns


def columns_of(group: Group, units: np.ndarray, taps: int = 1) -> np.ndarray:
    """Return, for each of the group's units, its columns among those of `units`; -1 for none."""
    channels = [np.flatnonzero(units == unit) for unit in group.units]
    most = max(len(c) for c in channels)
    columns = np.full((group.width, max(most, 1) * taps), -1, np.int64)
    for row, c in zip(columns, channels, strict=True):
        row[: len(c) * taps] = (c[:, None] * taps + np.arange(taps)).ravel()
    return columns


def _fold(flow: Flow, linear: Linear) -> np.ndarray | None:
    """Group the columns of a very wide layer by channel, if all channels have equally many."""
    if linear.group > 1:
        return None
    units = np.repeat(flow.units_along(linear.x, linear.x_axis), linear.taps)
    names, counts = np.unique(units, return_counts=True)
    if 0 in names or (counts != counts[0]).any():
        return None
    return np.argsort(units, kind="stable").reshape(len(names), -1)
