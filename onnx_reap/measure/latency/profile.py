"""Latency tables of models: measured here, and read by a budget anywhere."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.cost import layer_extents
from onnx_reap.measure.latency.layer import SizedLayer, TimedLayer, layer_of, single_shape
from onnx_reap.measure.latency.measure import ROUNDS, measure
from onnx_reap.measure.latency.table import LatencyTable, LayerTimes
from onnx_reap.measure.runner import first_feed
from onnx_reap.onnxio.session import onnxruntime
from onnx_reap.options import Settings
from onnx_reap.progress import Progress
from onnx_reap.solve.allocation import Choices, allowed_widths, nearest
from onnx_reap.solve.cost import Extent

FRACTIONS = (0.25, 0.4375, 0.625, 0.8125, 1.0)
"""Of every axis, about where layers are measured."""


def measured_table(
    analysis: Analysis, samples: Calibration, settings: Settings, progress: Progress
) -> LatencyTable:
    """Measure a model's linear layers at several of the widths that settings allow."""
    linears, grids = analysis.flow.linears, _grids(analysis, settings)
    layers = [
        _sized(layer_of(analysis, linear), *grid)
        for linear, grid in zip(linears, grids, strict=True)
    ]
    every = list(dict.fromkeys(point for rows in layers for row in rows for point in row))
    whole, feed = analysis.runnable(analysis.light), first_feed(analysis, samples)
    with progress.stage("Measuring layers", total=ROUNDS * len(every)) as step:
        times, whole_ms = measure(every, whole, feed, analysis.providers, step)
    ms = [tuple(tuple(times[point] for point in row) for row in rows) for rows in layers]
    measured = [
        replace(head, inputs=inputs, outputs=outputs, ms=each)
        for head, (inputs, outputs), each in zip(layer_heads(analysis), grids, ms, strict=True)
    ]
    version, round_to = onnxruntime().__version__, settings.round_to
    return LatencyTable(analysis.providers[0], version, round_to, whole_ms, tuple(measured))


def layer_heads(analysis: Analysis) -> list[LayerTimes]:
    """Describe the model's layers as a table does, without times."""
    shapes = analysis.probe.shapes
    return [
        LayerTimes(
            linear.node,
            linear.op,
            shapes[linear.weight],
            single_shape(analysis.probe, linear.x),
            *((), (), ()),
        )
        for linear in analysis.flow.linears
    ]


def _sized(
    layer: TimedLayer, inputs: Sequence[int], outputs: Sequence[int]
) -> tuple[tuple[SizedLayer, ...], ...]:
    """List what to measure, by inputs and outputs; depthwise layers' inputs follow."""
    if layer.multiplier:
        return (tuple(SizedLayer(layer, n // layer.multiplier, n) for n in outputs),)
    return tuple(tuple(SizedLayer(layer, i, o) for o in outputs) for i in inputs)


def _grids(analysis: Analysis, settings: Settings) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Choose the widths of every layer's inputs and outputs; all groups shrink alike."""
    widths = []
    for group in analysis.groups:
        allowed = allowed_widths(
            group.width,
            step=group.step,
            round_to=settings.round_to,
            min_channels=settings.min_channels,
            spans=group.spans,
        )
        choices = Choices(allowed, np.zeros(len(allowed)))
        widths.append([allowed[nearest(choices, f * group.width)] for f in FRACTIONS])
    extents = layer_extents(analysis.flow, analysis.groups)
    grids = []
    for linear, (x, y) in zip(analysis.flow.linears, extents, strict=True):
        inputs, outputs = _lengths(x, widths), _lengths(y, widths)
        grids.append((inputs[-1:] if linear.depthwise else inputs, outputs))
    return grids


def _lengths(extent: Extent, widths: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Lengths of an axis, ascending, where the widths of every group are given by fraction."""
    lengths = [
        round(extent.fixed + sum(each * widths[g][i] for g, each in extent.per_unit.items()))
        for i in range(len(FRACTIONS))
    ]
    return tuple(sorted(set(lengths)))
