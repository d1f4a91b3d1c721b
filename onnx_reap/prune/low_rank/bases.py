"""A basis for every layer that may be written as two, from what the layer sees."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.epilogue import find_epilogue
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import LayerMoments, Tap, capture_moments
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.options import Settings
from onnx_reap.prune.context import Run
from onnx_reap.prune.low_rank.factor import (
    CHANNEL,
    SPATIAL,
    Factor,
    as_channels,
    as_slices,
    costs_of_rank,
    factorable,
    may_split,
)
from onnx_reap.prune.removal_paths import WIDEST
from onnx_reap.solve import eigenbases as basis
from onnx_reap.solve.allocation import allowed_widths
from onnx_reap.solve.backend import Backend, to_host
from onnx_reap.solve.moments import Moments

FEWEST_ROWS = 4  # seen by coordinate: of fewer, a basis fits what was seen alone
MIDDLE = 0.5  # of a layer's multiply-accumulates: where schemes are compared


def gaining_ranks(
    analysis: Analysis, linear: Linear, scheme: str, settings: Settings
) -> np.ndarray:
    """List the ranks at which two layers take fewer multiply-accumulates than one."""
    shapes = analysis.probe.shapes
    inputs, outputs = shapes[linear.x][linear.x_axis], shapes[linear.y][linear.y_axis]
    full = min(inputs * linear.taps, outputs)
    if scheme == SPATIAL:
        full = min(inputs * linear.kernel[0], outputs * linear.kernel[1])
    widths = allowed_widths(
        full, step=1, round_to=settings.round_to, min_channels=settings.min_channels
    )[:-1]
    whole, each = costs_of_rank(linear, scheme, shapes[linear.x], shapes[linear.y])
    return widths[widths * each < whole]


def find_factors(run: Run) -> list[Factor]:
    """Find a basis for every layer that may be written as two."""
    analysis, settings = run.analysis, run.settings
    schemes = {
        linear.node: found
        for linear in analysis.flow.linears
        if factorable(analysis.model, linear, run.reason_to_keep)
        and (found := _schemes(analysis, linear, settings))
    }
    linears = [linear for linear in analysis.flow.linears if linear.node in schemes]
    taps = [_tap(analysis, linear, SPATIAL in schemes[linear.node]) for linear in linears]
    moments = seen_by(run, taps)
    return [
        _factor(analysis, each, schemes[each.node], seen, run.backend)
        for each in linears
        if (seen := moments[each.node]).count >= FEWEST_ROWS * _coordinates(analysis, each)
    ]


def seen_by(run: Run, taps: Sequence[Tap]) -> LayerMoments:
    """Observe layers over all samples that are fitted to."""
    analysis, settings = run.analysis, run.settings
    samples = run.samples.fit or run.samples.every
    with run.clock("factorise"), run.progress.stage("Finding bases", len(samples)) as step:
        return capture_moments(
            analysis,
            taps,
            samples,
            settings,
            total=len(samples),
            to_device=run.backend.to_device,
            on_batch=step,
        )


def _schemes(analysis: Analysis, linear: Linear, settings: Settings) -> dict[str, int]:
    """List the schemes that can gain, with the rank at which each is judged."""
    found, shapes = {}, analysis.probe.shapes
    for scheme in (CHANNEL, SPATIAL):
        if scheme == SPATIAL and not (may_split(linear) and _columns(analysis, linear) <= WIDEST):
            continue
        if len(gaining_ranks(analysis, linear, scheme, settings)):
            whole, each = costs_of_rank(linear, scheme, shapes[linear.x], shapes[linear.y])
            found[scheme] = max(int(MIDDLE * whole / each), 1)
    return found


def _coordinates(analysis: Analysis, linear: Linear) -> int:
    return min(_columns(analysis, linear), analysis.probe.shapes[linear.y][linear.y_axis])


def _columns(analysis: Analysis, linear: Linear) -> int:
    return analysis.probe.shapes[linear.x][linear.x_axis] * linear.taps


def _tap(analysis: Analysis, linear: Linear, patches: bool) -> Tap:
    """Observe the patches that a layer reads, or just what it makes of them."""
    if patches:
        return Tap(linear, _columns(analysis, linear))
    return channel_tap(analysis, linear, linear.y, linear.y_axis)


def channel_tap(analysis: Analysis, linear: Linear, tensor: str, axis: int) -> Tap:
    """Observe the channels of a layer's input or output, at all of its places."""
    one = (1,) * len(linear.kernel)
    channels = replace(
        linear, x=tensor, y=tensor, x_axis=axis, y_axis=axis, kernel=one, strides=one,
        dilations=one, pads=(0,) * (2 * len(one)),
    )  # fmt: skip
    return Tap(channels, analysis.probe.shapes[tensor][axis])


def _factor(
    analysis: Analysis,
    linear: Linear,
    schemes: Mapping[str, int],
    moments: Moments,
    backend: Backend,
) -> Factor:
    """Write a layer as two by the scheme that loses less at the rank where it is judged."""
    stored = analysis.model.node(linear.node).inputs[1].values
    weight = backend.to_device(weight_to_matrix(linear, stored)[0])
    outputs = int(weight.shape[1])
    scale = backend.to_device(find_epilogue(analysis.model, linear, outputs).scale)
    gram, errors, products = moments.gram[0, ...], {}, {}
    if CHANNEL in schemes:
        moment = basis.output_moment(gram, weight) if SPATIAL in schemes else gram
        product = products[CHANNEL] = basis.factor(weight, moment, scale)
        errors[CHANNEL] = float(sum(to_host(product.explained)[schemes[CHANNEL] :]))
    if SPATIAL in schemes:
        across = linear.kernel[1]
        channels = int(weight.shape[0]) // linear.taps
        product = basis.factor_slices(weight, gram, scale, channels, *linear.kernel)
        products[SPATIAL] = product
        errors[SPATIAL] = basis.slices_error(product, schemes[SPATIAL], weight, gram, scale, across)
    best = min(errors, key=lambda scheme: errors[scheme])
    made = products[best]
    host = replace(made, first=to_host(made.first), second=to_host(made.second))
    return (as_channels if best == CHANNEL else as_slices)(linear, host, stored)
