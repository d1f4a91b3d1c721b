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

from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.groups import Group
from onnx_reap.measure.activations.moments import Tap, first_of_each
from onnx_reap.measure.sensitivity.divergence import metrics
from onnx_reap.measure.sensitivity.measure import Bench, measure, obstacles
from onnx_reap.measure.sensitivity.trial import Consumer, Observed, Trial, consumers_of
from onnx_reap.options import Settings
from onnx_reap.solve.allocation import Choices
from onnx_reap.solve.curves import FLOOR, divergence_curve

POINTS = 1  # widths of a group that are tried, besides its own,
STREAM_POINTS = 2  # or so many where several layers make the channels: errors add up along a stream
COORDINATE_POINTS = 4  # or in a basis: the first to go are felt far less than their error says
TRUST = 0.6  # in the divergence, against the local error, in their weighted geometric mean


def divergence_choices(
    analysis: Analysis,
    local: Sequence[Choices],
    orders: Sequence[np.ndarray],
    observed: Observed,
    samples: Calibration,
    settings: Settings,
    on_batch: Callable[[int], None],
    *,
    coordinates: Container[int] = (),
) -> tuple[list[Choices], list[str]]:
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
    on_batch : callable
        Told the number of samples after every batch.
    coordinates : container of int
        Groups that are coordinates in a basis.

    Returns
    -------
    choices : list of Choices
        The local errors themselves where no output can be compared.
    notes : list of str
        Warnings.
    """
    dtypes = analysis.probe.dtypes
    found = metrics(analysis.model, analysis.probe.shapes, dtypes, settings.metric)
    compared = [metric for metric in found if dtypes[metric.output] == np.float32]
    points = [_points(c, _count(analysis.groups[g], g in coordinates)) for g, c in enumerate(local)]
    tried = [g for g, at in enumerate(points) if len(at) and analysis.groups[g].consumers]
    if not compared or not tried:
        notes = ["no output holds numbers of float32 that nodes compute"] if tried else []
        return list(local), [f"{note}: groups are judged by their local errors" for note in notes]
    layers = consumers_of(
        analysis.model, [analysis.groups[g] for g in tried], analysis.flow, observed
    )
    trials = [
        (g, _trial(analysis.groups[g], layers, observed.taps, orders[g], int(local[g].widths[at])))
        for g in tried
        for at in points[g]
    ]
    bench = Bench(
        analysis.model,
        analysis.probe,
        analysis.flow.linears,
        compared,
        samples,
        analysis.fixed_batch,
        analysis.providers,
        settings.seed,
    )
    measured: dict[int, list[float | None]] = {g: [] for g in tried}
    results = measure(bench, [trial for _, trial in trials], on_batch)
    for (g, _), result in zip(trials, results, strict=True):
        measured[g].append(result)
    felt = [
        divergence_curve(c.errors, c.errors[at], np.array(measured[g], np.float64))
        if None not in measured.get(g, [None])
        else None
        for g, (c, at) in enumerate(zip(local, points, strict=True))
    ]
    unknown = sum(None in found for found in measured.values())
    silent = sum(felt[g] is None for g in tried) - unknown
    notes = []
    if unknown:
        notes = [
            f"what the outputs feel of {unknown} of {len(tried)} groups is unknown, as gradients "
            f"don't pass {obstacles(bench)}: they are judged by their local errors"
        ]
    if silent:
        notes.append(
            f"the outputs feel nothing of {silent} of {len(tried)} groups on {len(samples)} "
            "samples: they are judged by their local errors"
        )
    choices = [Choices(c.widths, e) for c, e in zip(local, _mixed(local, felt), strict=True)]
    return choices, notes


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


def _count(group: Group, coordinates: bool) -> int:
    """Return how many widths of a group are tried."""
    if coordinates:
        return COORDINATE_POINTS
    return STREAM_POINTS if len(group.producers) > 1 else POINTS


def _points(choices: Choices, count: int) -> np.ndarray:
    """Choose widths to try, as indices, evenly spread over those that cost something."""
    tried = choices.widths > 0
    worst = choices.errors[tried].max(initial=0.0)
    costly = np.flatnonzero(tried & (choices.errors > FLOOR * worst))  # the narrowest come first
    at = np.unique(((np.arange(count) + 0.5) * len(costly) / count).astype(int))
    return costly[at[: len(costly)]]


def _trial(
    group: Group,
    layers: Mapping[str, Consumer],
    taps: Mapping[str, Tap],
    order: np.ndarray,
    width: int,
) -> Trial:
    gone = frozenset(group.units[int(unit)] for unit in order[: group.width - width])
    return Trial(tuple(layers[node] for node in first_of_each(group.consumers, taps)), gone)
