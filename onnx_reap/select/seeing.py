"""What a criterion is shown of a group, gathered from the graph and the moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnx_reap.capture.moments import Tap
from onnx_reap.capture.rows import weight_to_matrix
from onnx_reap.criteria.seen import Matrix, Reader, Seen
from onnx_reap.graph.channels import Group
from onnx_reap.graph.model import Model
from onnx_reap.graph.records import Flow
from onnx_reap.select.paths import readings
from onnx_reap.solve.backend import to_host
from onnx_reap.solve.moments import Moments


def see(
    group: Group,
    flow: Flow,
    model: Model,
    taps: Mapping[str, Tap],
    moments: Mapping[str, Moments],
    seed: int,
) -> Seen:
    """Collect what is known of a group.

    Parameters
    ----------
    taps, moments : mappings by node
        Of the group's consumers; none of them where nothing was run.
    """
    readers = tuple(
        Reader(
            w, columns, to_host(moments[node].gram[g, ...]), to_host(moments[node].mean_x[g, ...])
        )
        for node in group.consumers
        if node in moments
        for g, w, columns in readings(taps[node], group, flow, model)
    )
    parts = None if group.parts is None else np.array(group.parts)
    return Seen(group.name, _filters(group, flow, model), readers, parts, seed)


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
        seen = np.zeros(group.width, np.int64)
        blocks: list[Matrix] = []
        for unit, row in zip(units, rows, strict=True):
            if unit in place:
                i = place[unit]
                if seen[i] == len(blocks):
                    blocks.append(np.zeros((group.width, rows.shape[1])))
                blocks[seen[i]][i] = row
                seen[i] += 1
        yield from blocks
