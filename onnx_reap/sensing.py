"""PRO: a group's width is judged by what its narrowing does to the model's final output.

A few widths of every group are tried, its consumers refitted and everything else intact, on samples
that chose nothing; between them the divergence follows the group's local error. Tried alone, a
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

from onnx_reap.analysis import Analysis
from onnx_reap.data import Calibration
from onnx_reap.graph.channels import Group
from onnx_reap.plan.allocate import Choices
from onnx_reap.sensitivity.curve import divergence_curve
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
    samples : Calibration
        To measure on.
    on_group : callable
        Told that a group is done.
    """
    samples = samples.take(MOST_SAMPLES, settings.seed)
    model = analysis.copy()
    groups = analysis.groups
    consumers = consumers_of(model, groups, analysis.flow, observed)
    points = [_points(group, choices) for group, choices in zip(groups, local, strict=True)]
    tried = [g for g, at in enumerate(points) if len(at) and groups[g].consumers]
    series = [
        _series(
            groups[g],
            [consumers[n] for n in groups[g].consumers],
            orders[g],
            local[g].widths[points[g]],
        )
        for g in tried
    ]
    bench = Bench(
        model,
        analysis.probe,
        metrics(analysis.model, analysis.probe.shapes, analysis.probe.dtypes, settings.metric),
        samples,
        analysis.fixed_batch or BATCH,
        analysis.fixed_batch is not None,
        analysis.providers,
    )
    measured = dict(zip(tried, measure(bench, series, on_group), strict=True))
    result = []
    for g, choices in enumerate(local):
        errors = choices.errors
        if g in measured:
            felt = divergence_curve(errors, errors[points[g]], np.array(measured[g]))
            errors = errors ** (1 - TRUST) * felt**TRUST
        result.append(Choices(choices.widths, errors))
    return result


def _points(group: Group, choices: Choices) -> np.ndarray:
    """Choose widths to try, as indices, evenly spread."""
    narrower = len(choices.widths) - 1
    count = STREAM_POINTS if len(group.producers) > 1 else POINTS
    return np.unique(((np.arange(count) + 0.5) * narrower / count).astype(int))[:narrower]


def _series(
    group: Group, consumers: Sequence[Consumer], order: np.ndarray, widths: np.ndarray
) -> Series:
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
