"""What removing channels costs: a removal path for every group, and an error for every width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.data.labels import read_labels
from onnx_reap.data.split import train_and_validation
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.groups import Group
from onnx_reap.measure.activations.moments import LayerMoments, Tap, capture_moments
from onnx_reap.measure.activations.pooled import Pooled, capture_pooled
from onnx_reap.measure.sensitivity.estimate import divergence_choices
from onnx_reap.measure.sensitivity.perturbation import ConsumerMoments
from onnx_reap.options import Settings
from onnx_reap.progress import Progress
from onnx_reap.prune.criteria.gather import Captured, axes_of, see
from onnx_reap.prune.criteria.ranking import Ranking
from onnx_reap.prune.criteria.table import CRITERIA, ranking
from onnx_reap.prune.removal_paths import DAMPING, find_taps, group_path
from onnx_reap.solve.allocation import Choices
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.removal import RemovalPath

JUDGES = 128  # samples that tell what the outputs feel, at most
MADE_UP = 0.7  # of a vanished branch's error is left by later layers, see docs/experiments.md


@dataclass(frozen=True)
class Evidence:
    """What is known of every group's widths.

    Attributes
    ----------
    paths : tuple of RemovalPath
        By group, down to the narrowest width but 0 that may be chosen.
    variances : tuple of float or None
        Of the consumers' outputs, in the unit of the paths' errors; None where nothing may go.
    choices : tuple of Choices
        Widths, and an error for each that compares across groups.
    rankings : tuple of Ranking or None
        By group, what the criterion says; None where it goes by the errors of the path.
    notes : tuple of str
        Warnings about these errors.
    """

    paths: tuple[RemovalPath, ...]
    variances: tuple[float | None, ...]
    choices: tuple[Choices, ...]
    rankings: tuple[Ranking | None, ...]
    notes: tuple[str, ...] = ()


def blind_evidence(
    analysis: Analysis, widths: Sequence[np.ndarray], settings: Settings
) -> Evidence:
    """Return the order in which channels go, from weights alone; no error is known."""
    found = [_ranking(group, analysis, Captured(), settings) for group in analysis.groups]
    orders = [np.asarray([] if each is None else each.order, np.int64) for each in found]
    paths = tuple(RemovalPath(order, np.zeros(len(order))) for order in orders)
    choices = tuple(Choices(w, np.zeros(len(w))) for w in widths)
    return Evidence(paths, (None,) * len(paths), choices, tuple(found))


def gather_evidence(
    analysis: Analysis,
    widths: Sequence[np.ndarray],
    settings: Settings,
    samples: Calibration,
    backend: Backend,
    progress: Progress,
    *,
    sense: bool,
) -> Evidence:
    """Run the model, follow every group's removal path, and see what the output feels of it.

    Parameters
    ----------
    widths : sequence of int arrays
        By group the widths that it may take, ascending, its own last.
    sense : bool
        Whether errors are those of the final output; local errors otherwise.
    """
    shrinking = [g for g, w in zip(analysis.groups, widths, strict=True) if len(w) > 1]
    taps = find_taps(analysis.flow, shrinking, settings.reap_space)
    parts = (sense and train_and_validation(samples, settings.seed)) or (samples,)
    with progress.stage("Capturing activations", len(samples)) as step:
        learned, *others = (
            _capture(analysis, taps, part, len(samples), settings, backend, step) for part in parts
        )
    together = learned
    for other in others:
        together = together.with_rows_of(other)
    by_node = {tap.linear.node: tap for tap in taps}
    captured = Captured(by_node, together, _pooled(analysis, taps, samples, settings, progress))
    paths, variances, rankings = _paths(analysis, widths, captured, settings, backend, progress)
    del together, captured  # as large as what is still needed
    choices = [
        _choices(w, path, variance)
        for w, path, variance in zip(widths, paths, variances, strict=True)
    ]
    notes: list[str] = []
    if sense:
        known = ConsumerMoments(by_node, learned, DAMPING, backend)
        orders = [path.order for path in paths]
        judges = parts[-1].take(JUDGES, settings.seed)
        with progress.stage("Measuring sensitivities", len(judges)) as step:
            choices, notes = divergence_choices(
                analysis, choices, orders, known, judges, settings, step
            )
    return Evidence(tuple(paths), tuple(variances), tuple(choices), tuple(rankings), tuple(notes))


def _capture(
    analysis: Analysis,
    taps: Sequence[Tap],
    samples: Calibration,
    total: int,
    settings: Settings,
    backend: Backend,
    step: Callable[[int], None],
) -> LayerMoments:
    return capture_moments(
        analysis,
        taps,
        samples,
        settings,
        total=total,
        to_device=backend.to_device,
        on_batch=step,
    )


def _pooled(
    analysis: Analysis,
    taps: Sequence[Tap],
    samples: Calibration,
    settings: Settings,
    progress: Progress,
) -> Pooled | None:
    """Pool every sample's feature maps and outputs, if the criterion looks at them."""
    if not CRITERIA[settings.criterion].pools:
        return None
    with progress.stage("Pooling feature maps", len(samples)) as step:
        pooled = capture_pooled(analysis, axes_of(taps), samples, step)
    if settings.labels is None:
        return pooled
    classes = read_labels(settings.labels, samples)
    one_hot = (classes[:, None] == np.unique(classes)).astype(np.float64)
    return replace(pooled, outputs=one_hot[samples.indices])


def _paths(
    analysis: Analysis,
    widths: Sequence[np.ndarray],
    captured: Captured,
    settings: Settings,
    backend: Backend,
    progress: Progress,
) -> tuple[list[RemovalPath], list[float | None], list[Ranking | None]]:
    """Follow the removal path of every group down to its narrowest width but 0."""
    paths: list[RemovalPath] = []
    variances: list[float | None] = []
    rankings: list[Ranking | None] = []
    with progress.stage("Choosing channels", len(widths)) as step:
        for group, allowed in zip(analysis.groups, widths, strict=True):
            path, variance = RemovalPath(np.zeros(0, np.int64), np.zeros(0)), None
            ranking = None
            if len(allowed) > 1:
                ranking = _ranking(group, analysis, captured, settings)
                path, variance = group_path(
                    group,
                    analysis.flow,
                    analysis.model,
                    captured.taps,
                    captured.moments,
                    backend,
                    steps=max(group.width - int(allowed[allowed > 0][0]), 1),
                    order=None if ranking is None else ranking.order,
                )
            paths.append(path)
            variances.append(variance)
            rankings.append(ranking)
            step()
    return paths, variances, rankings


def _ranking(
    group: Group, analysis: Analysis, captured: Captured, settings: Settings
) -> Ranking | None:
    """Ask the criterion; None where it goes by the errors of the path itself.

    As do coordinates of a basis, of which other criteria know nothing.
    """
    criterion = CRITERIA[settings.criterion]
    if any(analysis.groups[index] is group for index in analysis.coordinates):
        return None if captured.taps else Ranking(list(range(group.width))[::-1])
    if not criterion.ranks:
        return None
    known = captured if criterion.runs else Captured()
    seen = see(group, analysis.flow, analysis.model, known, settings.seed)
    return ranking(settings.criterion, seen)


def _choices(widths: np.ndarray, path: RemovalPath, variance: float | None) -> Choices:
    """Look up the error at every width.

    Without any unit it is all that an intercept leaves, of which layers behind make up for more
    than they do for a branch that is made thinner.
    """
    errors = np.concatenate([[0.0], path.errors])
    at = errors[widths[-1] - widths[widths > 0]]
    whole = [max(MADE_UP * (variance or 0.0), errors[-1])] * int((widths == 0).sum())
    return Choices(widths, np.concatenate([whole, at]))
