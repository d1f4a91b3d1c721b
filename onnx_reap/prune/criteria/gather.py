"""What a criterion is shown of a group, gathered from the graph and from what was captured."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Flow
from onnx_reap.measure.activations.moments import Tap
from onnx_reap.measure.activations.pooled import Pooled
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.prune.criteria.observation import Matrix, Observation, Reader
from onnx_reap.prune.removal_paths import readings
from onnx_reap.solve.backend import to_host
from onnx_reap.solve.moments import Moments


@dataclass(frozen=True)
class Captured:
    """What was captured of the model at work; nothing by default."""

    taps: Mapping[str, Tap] = field(default_factory=dict)  # By node
    moments: Mapping[str, Moments] = field(default_factory=dict)  # By node, of its inputs
    pooled: Pooled | None = None  # Of the same inputs, see `axes_of`


def axes_of(taps: Iterable[Tap]) -> dict[str, int]:
    """Return what layers read, with the axis of its channels."""
    return {layer.x: layer.x_axis for tap in taps for layer in tap.layers}


def observe(group: Group, flow: Flow, model: Model, captured: Captured, seed: int) -> Observation:
    """Collect what is known of a group."""
    taps = captured.taps
    readers = tuple(
        Reader(w, columns, *(to_host(m[g, ...]) for m in (moments.gram, moments.mean_x)))
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
    place = {unit: i for i, unit in enumerate(group.units)}
    for name, axis in inputs.items():
        for channel, unit in enumerate(flow.units_along(name, axis).tolist()):
            if (i := place.get(unit)) is not None:
                largest[:, i] = np.maximum(largest[:, i], pooled.maps[name][:, channel])
    return np.where(np.isfinite(largest), largest, 0.0)


def _filters(group: Group, flow: Flow, model: Model) -> Matrix:
    """Return the weights that make each unit, (U, R), those of all its channels in a row."""
    blocks = list(_channels(group, flow, model))
    return np.concatenate([np.zeros((group.width, 0)), *blocks], axis=1)


def _channels(group: Group, flow: Flow, model: Model) -> Iterator[Matrix]:
    """Yield (U, D) weights by producer and by how many channels of a unit came before."""
    place = {unit: i for i, unit in enumerate(group.units)}
    constants = model.constants()
    for linear in flow.linears:
        if linear.node not in group.producers:
            continue
        weight = weight_to_matrix(linear, constants[linear.weight].values)
        rows = weight.transpose(0, 2, 1).reshape(-1, weight.shape[1])
        units = flow.units_along(linear.y, linear.y_axis).tolist()
        before = np.zeros(group.width, np.int64)
        blocks: list[Matrix] = []
        for unit, row in zip(units, rows, strict=True):
            if (i := place.get(unit)) is not None:
                if before[i] == len(blocks):
                    blocks.append(np.zeros((group.width, rows.shape[1])))
                blocks[before[i]][i] = row
                before[i] += 1
        yield from blocks
