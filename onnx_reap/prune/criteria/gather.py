"""What a criterion is shown of a group, gathered from the graph and from what was captured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Flow
from onnx_reap.measure.activations.moments import Tap
from onnx_reap.measure.activations.pooled import Pooled
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.measure.sensitivity.output_metric import OutputMetric
from onnx_reap.prune.criteria.observation import Matrix, Observation, Reading
from onnx_reap.prune.removal_paths import columns_of, readings
from onnx_reap.solve.backend import to_host
from onnx_reap.solve.moments import Moments


@dataclass(frozen=True)
class Captured:
    """What was captured of the model at work; nothing by default."""

    taps: Mapping[str, Tap] = field(default_factory=dict)  # By node
    moments: Mapping[str, Moments] = field(default_factory=dict)  # By node, of its inputs
    pooled: Pooled | None = None  # Of the same inputs, see `axes_of`
    # By node, of its outputs: it tells in which order channels go that one layer makes
    metrics: Mapping[str, OutputMetric] = field(default_factory=dict)


def axes_of(taps: Iterable[Tap]) -> dict[str, int]:
    """Return what layers read, with the axis of its channels."""
    return {layer.x: layer.x_axis for tap in taps for layer in tap.layers}


def observe(group: Group, flow: Flow, model: Model, captured: Captured, seed: int) -> Observation:
    """Collect what is known of a group."""
    taps = captured.taps
    readers = tuple(
        Reading(w, columns, *(to_host(m[g, ...]) for m in (moments.gram, moments.mean_x)))
        for node in group.consumers
        if node in captured.moments
        for moments in [captured.moments[node]]
        for g, w, columns in readings(taps[node], group, flow, model)
    )
    parts = None if group.parts is None else np.array(group.parts)
    observed = Observation(group.name, _filters(group, flow, model), readers, parts, seed)
    if captured.pooled is None:
        return observed
    inputs = axes_of(taps[node] for node in group.consumers if node in taps)
    features = _features(group, flow, inputs, captured.pooled)
    return replace(observed, features=features, responses=captured.pooled.outputs)


def _features(group: Group, flow: Flow, inputs: Mapping[str, int], pooled: Pooled) -> Matrix:
    """Return the largest value of each unit by sample, (N, U); 0 where nothing reads it."""
    largest = np.full((len(pooled.outputs), group.width), -np.inf)
    for name, axis in inputs.items():
        for at in columns_of(group, flow.units_along(name, axis)).T:
            own = at >= 0
            largest[:, own] = np.maximum(largest[:, own], pooled.maps[name][:, at[own]])
    return np.where(np.isfinite(largest), largest, 0.0)


def _filters(group: Group, flow: Flow, model: Model) -> Matrix:
    """Return the weights that make each unit, (U, R): those of all its channels in a row."""
    blocks = [np.zeros((group.width, 0))]
    constants = model.constants()
    for linear in flow.linears:
        if linear.node in group.producers:
            weight = weight_to_matrix(linear, constants[linear.weight].values)
            rows = weight.transpose(0, 2, 1).reshape(-1, weight.shape[1])
            channels = columns_of(group, flow.units_along(linear.y, linear.y_axis))
            blocks += [np.where(at[:, None] >= 0, rows[at], 0.0) for at in channels.T]
    return np.concatenate(blocks, axis=1)
