"""PRO: a group's width is judged by what its narrowing does to the model's final output.

A few widths of every group are tried, its consumers refitted and everything else intact, on samples
that fitted nothing where there are enough of them (the order in which channels go is that of all
samples); between widths the divergence follows the group's local error. Tried alone, a
group's divergence lacks what later layers' refits will make up for, and that is most for the first
groups; so groups are compared by a mean of divergence and local error, which is blind to depth.

References
----------
K. Kamma, S. Inoue, T. Wada, "Pruning Ratio Optimization with Layer-Wise Pruning Method for
Accelerating Convolutional Neural Networks", IEICE Trans. Inf. & Syst. E105-D(1), 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.analysis import Analysis
from onnx_reap.capture.moments import batch_size
from onnx_reap.data import Calibration
from onnx_reap.graph.channels import Group
from onnx_reap.plan.allocate import Choices
from onnx_reap.sensitivity.curve import FLOOR, divergence_curve
from onnx_reap.sensitivity.divergence import metrics
from onnx_reap.sensitivity.measure import Bench, Series, measure
from onnx_reap.sensitivity.trial import Constants, Consumer, Observed, consumers_of
from onnx_reap.settings import Settings

POINTS = 1  # widths of a group that are tried, besides its own,
STREAM_POINTS = 2  # or so many where several layers make the channels: errors add up along a stream
MOST_SAMPLES = 128
BATCH = 16  # samples a run: a session's first run allocates memory for all that it holds
TRUST = 0.6  # in the divergence, against the local error, in their weighted geometric mean


def divergence_choices(
    analysis: Analysis,
    local: Sequence[Choices],
    orders: Sequence[np.ndarray],
    observed: Observed,
    samples: Calibration,
    settings: Settings,
    on_group: Callable[[], None],
) -> list[Choices]:
    """Replace local errors by divergences of the final output.

    Parameters
    ----------
    local : sequence of Choices
        By group.
    orders : sequence of int arrays
        For every group its units in the order of removal, as indices.
    observed : Observed
        What trials are fitted from.
    samples : Calibration
        To measure on; best others than `observed` is of.
    on_group : callable
        Told that a group is done.

    Returns
    -------
    list of Choices
        The local errors themselves where no output can be compared.

    Raises
    ------
    ReapError
        If an output is not finite without some channels.
    """
    compared = metrics(
        analysis.model, analysis.probe.shapes, analysis.probe.dtypes, settings.metric
    )
    points = [_points(group, c) for group, c in zip(analysis.groups, local, strict=True)]
    tried = [g for g, at in enumerate(points) if len(at) and analysis.groups[g].consumers]
    if not compared or not tried:
        return list(local)
    model = analysis.copy()
    layers = consumers_of(model, [analysis.groups[g] for g in tried], analysis.flow, observed)
    series = [
        _series(analysis.groups[g], layers, orders[g], local[g].widths[points[g]]) for g in tried
    ]
    outputs = [metric.output for metric in compared]
    fixed = analysis.fixed_batch
    bench = Bench(
        model,
        analysis.probe,
        compared,
        samples.take(MOST_SAMPLES, settings.seed),
        fixed or min(BATCH, batch_size(analysis.probe, outputs, None)),
        fixed is not None,
        analysis.providers,
    )
    measured = dict(zip(tried, measure(bench, series, on_group), strict=True))
    felt = [
        divergence_curve(c.errors, c.errors[at], np.array(measured[g])) if g in measured else None
        for g, (c, at) in enumerate(zip(local, points, strict=True))
    ]
    return [Choices(c.widths, e) for c, e in zip(local, _mixed(local, felt), strict=True)]


def _mixed(
    local: Sequence[Choices], felt: Sequence[np.ndarray | None]
) -> list[npt.NDArray[np.float64]]:
    """Mix divergences with local errors; the groups' median ratio stands in where none was felt."""
    ratios = [f[0] / c.errors[0] for c, f in zip(local, felt, strict=True) if f is not None]
    usual = float(np.median(ratios)) if ratios else 1.0
    return [
        c.errors ** (1 - TRUST) * (usual * c.errors if f is None else f) ** TRUST
        for c, f in zip(local, felt, strict=True)
    ]


def _points(group: Group, choices: Choices) -> np.ndarray:
    """Choose widths to try, as indices, evenly spread over those that cost something."""
    tried = choices.widths > 0
    worst = choices.errors[tried].max(initial=0.0)
    costly = np.flatnonzero(tried & (choices.errors > FLOOR * worst))  # the narrowest come first
    count = STREAM_POINTS if len(group.producers) > 1 else POINTS
    at = np.unique(((np.arange(count) + 0.5) * len(costly) / count).astype(int))
    return costly[at[: len(costly)]]


def _series(
    group: Group, layers: Mapping[str, Consumer], order: np.ndarray, widths: np.ndarray
) -> Series:
    consumers = [layers[node] for node in group.consumers]

    def trials() -> Iterator[Constants]:
        for width in widths.tolist():
            gone = {group.units[int(unit)] for unit in order[: group.width - width]}
            yield _together(consumer.without(gone) for consumer in consumers)

    dtypes = {
        name: values.dtype
        for name, values in _together(consumer.original() for consumer in consumers).items()
    }
    return Series(tuple(consumer.y for consumer in consumers), dtypes, trials())


def _together(parts: Iterator[Mapping[str, np.ndarray]]) -> Constants:
    return {name: values for part in parts for name, values in part.items()}
