from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_reap.measure.latency.table import LatencyTable, LayerTimes


def layer(
    node: str = "a",
    inputs: Sequence[int] = (2, 4, 8),
    outputs: Sequence[int] = (4, 8),
    ms: Sequence[Sequence[float]] | None = None,
) -> LayerTimes:
    """A layer whose time is inputs x outputs hundredths of a millisecond, or `ms`."""
    times = ms or [[i * o / 100 for o in outputs] for i in inputs]
    weight = (outputs[-1], inputs[-1], 3, 3)
    rows = tuple(tuple(row) for row in times)
    shape = (1, inputs[-1], 6, 6)
    return LayerTimes(node, "Conv", weight, shape, tuple(inputs), tuple(outputs), rows)


def table(*layers: LayerTimes, whole: float | None = None) -> LatencyTable:
    alone = sum(entry.ms[-1][-1] for entry in layers)
    whole = alone if whole is None else whole
    return LatencyTable("CPUExecutionProvider", "1.30.0", None, whole, layers)


def macs_table(measured: LatencyTable) -> LatencyTable:
    """The same grids, with times that follow from the weights' sizes alone: 1 ms for all layers."""
    from dataclasses import replace

    sizes = [np.outer(entry.inputs, entry.outputs).astype(float) for entry in measured.layers]
    total = sum(size[-1, -1] for size in sizes)
    layers = tuple(
        replace(entry, ms=tuple(map(tuple, (size / total).tolist())))
        for entry, size in zip(measured.layers, sizes, strict=True)
    )
    return replace(measured, layers=layers, whole_ms=1.1)
