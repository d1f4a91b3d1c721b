"""PRO: the sensitivity of the model's final output to the width of every group.

A few widths of every group are measured, its consumers refitted and everything else intact, on a
validation split where there are enough samples (the order in which channels are removed is that of
all samples); between widths the divergence follows the group's local error. A perturbation of one
group lacks what the refits of later layers compensate, and that is most for the first groups; so
groups are compared by a mean of divergence and local error, which doesn't depend on depth. Where no
normalisation fixes the scale of activations, local errors are in units that mean nothing; that
shows in how differently groups' divergences relate to their local errors, and these count less.

References
----------
K. Kamma, S. Inoue, T. Wada, "Pruning Ratio Optimization with Layer-Wise Pruning Method for
Accelerating Convolutional Neural Networks", IEICE Trans. Inf. & Syst. E105-D(1), 2022.
"""

from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.groups import Group
from onnx_reap.measure.activations.moments import Tap, one_per_weight
from onnx_reap.measure.sensitivity.evaluation import Evaluation
from onnx_reap.measure.sensitivity.measure import measure_sensitivities, obstacles
from onnx_reap.measure.sensitivity.perturbation import (
    ConsumerMoments,
    ConsumerRefit,
    Perturbation,
    refits_of,
)
from onnx_reap.measure.sensitivity.running import measure_by_running
from onnx_reap.options import Settings
from onnx_reap.solve.allocation import Choices
from onnx_reap.solve.curves import FLOOR, divergence_curve

POINTS = 1
"""Widths of a group that are measured, besides its own."""

STREAM_POINTS = 2
"""The same where several layers produce the channels: errors add up along a stream."""

COORDINATE_POINTS = 4
"""The same in a basis: outputs are less sensitive to the first coordinates than errors suggest."""

TELLING = 0.05
"""Of a group's largest error: the narrowest width that is measured errs at least as much. Dead
channels err by the damping alone, of which the output feels nothing."""

WEIGHT = 0.6
"""Of the divergence, against the local error, in their weighted geometric mean; at least."""

SPREAD = 1.3
"""Standard deviation, over groups, of the logarithm of divergence over local error, up to which the
local error keeps its weight: trained networks with normalisations have .6 to 1.3."""


def divergence_choices(
    analysis: Analysis,
    local: Sequence[Choices],
    orders: Sequence[np.ndarray],
    known: ConsumerMoments,
    samples: Calibration,
    settings: Settings,
    on_batch: Callable[[int], object] | None,
    coordinates: Container[int] = (),
) -> tuple[list[Choices], list[str]]:
    """Replace local errors by divergences of the final output.

    Parameters
    ----------
    local : sequence of Choices
        By group.
    orders : sequence of int arrays
        For every group its units in the order of removal, as indices.
    coordinates : container of int
        Groups that are coordinates in a basis.

    Returns
    -------
    choices : list of Choices
        The local errors themselves where no output can be compared.
    notes : list of str
        Warnings.
    """
    evaluation = Evaluation.of(analysis, samples, settings)
    points = [_points(c, _count(analysis.groups[g], g in coordinates)) for g, c in enumerate(local)]
    tried = [g for g, at in enumerate(points) if len(at) and analysis.groups[g].consumers]
    if not evaluation.metrics or not tried:
        notes = ["no output holds numbers of float32 that nodes compute"] if tried else []
        return list(local), [f"{note}: local errors of the groups are used" for note in notes]
    widths = {g: local[g].widths[points[g]] for g in tried}
    measured = _measured(evaluation, widths, orders, known, on_batch)
    curves = [
        divergence_curve(c.errors, c.errors[at], np.array(measured[g], np.float64))
        if None not in measured.get(g, [None])
        else None
        for g, (c, at) in enumerate(zip(local, points, strict=True))
    ]
    choices = [Choices(c.widths, e) for c, e in zip(local, _mixed(local, curves), strict=True)]
    return choices, _notes(evaluation, measured, curves)


def _measured(
    evaluation: Evaluation,
    widths: Mapping[int, np.ndarray],
    orders: Sequence[np.ndarray],
    known: ConsumerMoments,
    on_batch: Callable[[int], object] | None,
) -> dict[int, list[float | None]]:
    """Measure the divergence of every group at some widths."""
    analysis = evaluation.analysis
    groups = {g: analysis.groups[g] for g in widths}
    consumers = refits_of(analysis.model, groups.values(), analysis.flow, known)
    perturbations = [
        _perturbation(groups[g], consumers, known.taps, orders[g], int(width))
        for g, some in widths.items()
        for width in some
    ]
    found = measure_sensitivities(evaluation, perturbations, on_batch)
    unknown = [i for i, each in enumerate(found) if each is None]
    run = measure_by_running(evaluation, [perturbations[i] for i in unknown])
    for i, each in zip(unknown, run, strict=True):
        found[i] = each
    results = iter(found)
    return {g: [next(results) for _ in some] for g, some in widths.items()}


def _notes(
    evaluation: Evaluation,
    measured: Mapping[int, Sequence[float | None]],
    curves: Sequence[np.ndarray | None],
) -> list[str]:
    """Warn of groups whose sensitivity is not known, or nothing."""
    unknown = sum(None in found for found in measured.values())
    silent = sum(curves[g] is None for g in measured) - unknown
    notes = []
    if unknown:
        notes = [
            f"the sensitivity of {unknown} of {len(measured)} groups is unknown, as gradients "
            f"don't pass {obstacles(evaluation)}: their local errors are used"
        ]
    if silent:
        notes.append(
            f"{silent} of {len(measured)} groups don't change the outputs on "
            f"{len(evaluation.samples)} samples: their local errors are used"
        )
    return notes


def _mixed(
    local: Sequence[Choices], curves: Sequence[np.ndarray | None]
) -> list[npt.NDArray[np.float64]]:
    """Mix divergences with local errors; the groups' median ratio stands in for unknown ones."""
    ratios = [f[0] / c.errors[0] for c, f in zip(local, curves, strict=True) if f is not None]
    usual = float(np.median(ratios)) if ratios else 1.0
    weight = _weight(ratios)
    return [
        c.errors ** (1 - weight) * (usual * c.errors if f is None else f) ** weight
        for c, f in zip(local, curves, strict=True)
    ]


def _weight(ratios: Sequence[float]) -> float:
    """Return the divergence's weight: the larger, the more its ratios to local errors differ."""
    spread = float(np.std(np.log(ratios))) if ratios else 0.0
    return 1 - (1 - WEIGHT) * (SPREAD / max(SPREAD, spread)) ** 4


def _count(group: Group, coordinates: bool) -> int:
    """Return how many widths of a group are measured."""
    if coordinates:
        return COORDINATE_POINTS
    return STREAM_POINTS if len(group.producers) > 1 else POINTS


def _points(choices: Choices, count: int) -> np.ndarray:
    """Choose widths to measure, as indices, evenly spread over those that cost something."""
    tried = choices.widths > 0
    worst = choices.errors[tried].max(initial=0.0)
    costly = np.flatnonzero(tried & (choices.errors > FLOOR * worst))  # the narrowest come first
    at = np.unique(((np.arange(count) + 0.5) * len(costly) / count).astype(int))
    result: np.ndarray = costly[at[: len(costly)]]
    result[:1] = np.minimum(result[:1], np.flatnonzero(choices.errors >= TELLING * worst)[-1])
    return result


def _perturbation(
    group: Group,
    consumers: Mapping[str, ConsumerRefit],
    taps: Mapping[str, Tap],
    order: np.ndarray,
    width: int,
) -> Perturbation:
    removed = frozenset(group.units[int(unit)] for unit in order[: group.width - width])
    own = tuple(consumers[node] for node in one_per_weight(group.consumers, taps))
    return Perturbation(own, removed)
