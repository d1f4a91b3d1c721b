"""Latency tables of models: measured here, and read by a budget anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.split import open_samples
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.cost import count_entries, layer_extents
from onnx_reap.graph.exclusion import exclusion
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.measure.latency.cost import Latency
from onnx_reap.measure.latency.layer import Layer, Point, describe
from onnx_reap.measure.latency.measure import ROUNDS, measure
from onnx_reap.measure.latency.table import LatencyTable, LayerTimes, check_layers
from onnx_reap.onnxio.load import load
from onnx_reap.onnxio.providers import execution_providers
from onnx_reap.onnxio.session import onnxruntime
from onnx_reap.options import PROFILED, Settings
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.solve.allocation import Choices, allowed_widths, nearest
from onnx_reap.solve.cost import Extent
from onnx_reap.validation import check_applicable, make_settings

FRACTIONS = (0.25, 0.4375, 0.625, 0.8125, 1.0)
"""Of every axis, about where layers are measured."""


def profile(
    model: str | Path | onnx.ModelProto, *, progress: Progress | None = None, **settings: Any
) -> LatencyTable:
    """Measure a model's linear layers at several widths, on this machine.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Never modified.
    progress : Progress, optional
        Told how far the measurement is.
    **settings
        Fields of `Settings`, of which those in `PROFILED` mean something here.

    Returns
    -------
    LatencyTable

    Raises
    ------
    ReapError
        If a setting is of no use here, or onnxruntime can't run the model.
    """
    check_applicable(settings, PROFILED, "settings that a profile doesn't depend on")
    progress = progress or NoProgress()
    few = {"samples": 4, "criterion": "l1", "refit": False}  # they only serve to run the model
    chosen = make_settings({**settings, **few})
    proto = load(model)
    inputs = model_inputs(proto, chosen.input_shapes)
    samples = open_samples(inputs, None, chosen).every
    providers = execution_providers(chosen.provider, chosen.custom_op_library)
    why_not = exclusion(chosen.include, chosen.exclude)
    analysis = analyse(proto, inputs, samples, providers, why_not)
    return measured_table(analysis, samples, chosen, progress)


def measured_table(
    analysis: Analysis, samples: Calibration, settings: Settings, progress: Progress
) -> LatencyTable:
    """Measure a model's linear layers at several widths.

    Parameters
    ----------
    samples : Calibration
        The first one serves to run the whole model.
    settings : Settings
        Of which the widths that groups may take are read.

    Raises
    ------
    ReapError
        If onnxruntime can't run a model.
    """
    feed = next(iter(samples.batches(analysis.fixed_batch or 1, pad=True)))
    heads, grids = _heads(analysis), _grids(analysis, settings)
    layers = [
        _layer(analysis, linear, head)
        for linear, head in zip(analysis.flow.linears, heads, strict=True)
    ]
    points = [_points(layer, x, y) for layer, (x, y) in zip(layers, grids, strict=True)]
    every = list(dict.fromkeys(point for rows in points for row in rows for point in row))
    with progress.stage("Measuring layers", total=ROUNDS * len(every)) as step:
        whole = analysis.runnable(analysis.proto)
        times, whole_ms = measure(every, whole, feed, analysis.providers, step)
    return LatencyTable(
        analysis.providers[0],
        onnxruntime().__version__,
        settings.round_to,
        whole_ms,
        tuple(
            replace(
                head,
                inputs=x,
                outputs=y,
                ms=tuple(tuple(times[point] for point in row) for row in rows),
            )
            for head, (x, y), rows in zip(heads, grids, points, strict=True)
        ),
    )


def predicted_latency(analysis: Analysis, table: LatencyTable) -> Latency:
    """Make a table a function of the widths of a model's groups.

    Raises
    ------
    ReapError
        If the table was measured on another model, or at other input shapes.
    """
    heads = _heads(analysis)
    check_layers(table, heads)
    measured = {layer.node: layer for layer in table.layers}
    return Latency(
        replace(table, layers=tuple(measured[head.node] for head in heads)),
        layer_extents(analysis.flow, analysis.groups),
        count_entries(
            analysis.model, analysis.probe, analysis.flow, analysis.groups, analysis.branches
        ),
        np.array([group.width for group in analysis.groups], np.int64),
        [analysis.branches.of(layer.node) for layer in analysis.flow.linears],
    )


def layer_of(analysis: Analysis, linear: Linear) -> Layer:
    """Describe a layer by what its time depends on."""
    return _layer(analysis, linear, _head(analysis, linear))


def _heads(analysis: Analysis) -> list[LayerTimes]:
    """Tell the model's layers, without times."""
    return [_head(analysis, linear) for linear in analysis.flow.linears]


def _head(analysis: Analysis, linear: Linear) -> LayerTimes:
    x_shape, shape = _single(analysis.probe, linear.x), analysis.probe.shapes[linear.weight]
    return LayerTimes(linear.node, linear.op, shape, x_shape, (), (), ())


def _single(probe: Probe, tensor: str) -> tuple[int, ...]:
    """Shape of a tensor for one sample, or for one batch where that is fixed."""
    grows = probe.dynamic.get(tensor, ())
    return tuple(
        int(size) // probe.batch if axis in grows else int(size)
        for axis, size in enumerate(probe.shapes[tensor])
    )


def _layer(analysis: Analysis, linear: Linear, head: LayerTimes) -> Layer:
    model = analysis.model
    return describe(
        linear,
        model.node_proto(model.node(linear.node)),
        model.opset,
        _dtype(analysis, linear),
        head.x_shape,
        analysis.probe.shapes[linear.y][linear.y_axis],
        _activation(model, linear),
    )


def _dtype(analysis: Analysis, linear: Linear) -> np.dtype:
    """Return the type that a layer is timed in: its own if onnxruntime has kernels for it."""
    probe, known = analysis.probe, analysis.probe.written if analysis.runs_as_given else {}
    return known.get(linear.x, probe.dtypes[linear.x])


def _activation(model: Model, linear: Linear) -> tuple[onnx.NodeProto, dict[int, float]] | None:
    """Return the activation that alone reads a layer, past a BatchNormalization, and its bounds."""
    readers = [] if linear.recurrent else model.node(linear.node).outputs[0].outputs
    if len(readers) == 1 and readers[0].op == "BatchNormalization":
        readers = readers[0].outputs[0].outputs
    if len(readers) != 1 or Trait.FUSES not in traits_of(readers[0].op):
        return None
    bounds = {}
    for place, tensor in enumerate(readers[0].inputs):
        if place and tensor.name:
            values = getattr(tensor, "values", None)  # of constants
            if values is None or np.size(values) != 1:
                return None
            bounds[place] = float(np.ravel(values)[0])
    return model.node_proto(readers[0]), bounds


def _points(
    layer: Layer, inputs: Sequence[int], outputs: Sequence[int]
) -> tuple[tuple[Point, ...], ...]:
    """List what to measure, by inputs and outputs; depthwise layers' inputs follow."""
    if layer.multiplier:
        return (tuple(Point(layer, n // layer.multiplier, n) for n in outputs),)
    return tuple(tuple(Point(layer, i, o) for o in outputs) for i in inputs)


def _grids(analysis: Analysis, settings: Settings) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Choose the widths of every layer's inputs and outputs; all groups shrink alike."""
    widths = []
    for group in analysis.groups:
        allowed = allowed_widths(
            group.width,
            step=group.step,
            round_to=settings.round_to,
            min_channels=settings.min_channels,
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
