"""What removing channels costs: a removal path for every group, and an error for every width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_reap.data.labels import read_labels
from onnx_reap.fields import CRITERIA
from onnx_reap.graph.groups import Group
from onnx_reap.measure.activations.moments import Tap, capture_moments
from onnx_reap.measure.activations.pooled import Pooled, capture_pooled
from onnx_reap.measure.sensitivity.estimate import divergence_choices
from onnx_reap.measure.sensitivity.evaluation import Evaluation
from onnx_reap.measure.sensitivity.output_metric import OutputMetric, output_metrics
from onnx_reap.measure.sensitivity.perturbation import ConsumerMoments
from onnx_reap.options import Settings
from onnx_reap.prune.context import Run
from onnx_reap.prune.criteria.gather import Captured, axes_of, observe
from onnx_reap.prune.criteria.ranking import Ranking
from onnx_reap.prune.criteria.table import ranking
from onnx_reap.prune.form import Form
from onnx_reap.prune.removal_paths import DAMPING, find_taps, group_path
from onnx_reap.solve.allocation import Choices
from onnx_reap.solve.removal import RemovalPath

MEASURED = 128  # samples that sensitivities are measured on, at most
VANISHED = 0.7  # of a vanished branch's error is left by later layers, see docs/experiments.md


@dataclass(frozen=True)
class GroupRemoval:
    """How the channels of a group go."""

    path: RemovalPath  # Down to the narrowest width but 0 that may be chosen
    # Of the consumers' outputs, in the unit of the path's errors; None where that is not known
    variance: float | None = None
    ranking: Ranking | None = None  # By the criterion; None where it goes by the path's errors


@dataclass(frozen=True)
class PruningCurves:
    """What narrowing every group costs."""

    removals: tuple[GroupRemoval, ...]
    choices: tuple[Choices, ...]  # Widths, and an error for each that compares across groups
    notes: tuple[str, ...] = ()  # Warnings about these errors


def curves_from_weights(
    form: Form, widths: Sequence[np.ndarray], settings: Settings
) -> PruningCurves:
    """Rank channels by weights alone; no error is known."""
    removals = []
    for group in range(len(form.analysis.groups)):
        found = _ranking(form, group, Captured(), settings)
        order = np.asarray([] if found is None else found.order, np.int64)
        removals.append(GroupRemoval(RemovalPath(order, np.zeros(len(order))), ranking=found))
    choices = tuple(Choices(w, np.zeros(len(w))) for w in widths)
    return PruningCurves(tuple(removals), choices)


def curves_from_samples(
    run: Run, widths: Sequence[np.ndarray], *, sensitivities: bool
) -> PruningCurves:
    """Run the model, follow every group's removal path, and measure what its outputs lose.

    Parameters
    ----------
    widths : sequence of int arrays
        By group the widths that it may take, ascending, its own last.
    sensitivities : bool
        Whether errors are those of the final output; local errors otherwise.
    """
    analysis, settings, samples = run.analysis, run.settings, run.samples.fit
    assert samples is not None
    shrinking = [g for g, w in zip(analysis.groups, widths, strict=True) if len(w) > 1]
    taps = find_taps(analysis, shrinking, settings.reap_space)
    parts = (sensitivities and run.samples.train_validation) or (samples,)
    with run.progress.stage("Capturing activations", len(samples)) as step:
        train, *others = (
            capture_moments(
                analysis,
                taps,
                part,
                settings,
                total=len(samples),
                to_device=run.backend.to_device,
                on_batch=step,
            )
            for part in parts
        )
    together = train
    for other in others:
        together = together.with_rows_of(other)
    by_node = {tap.linear.node: tap for tap in taps}
    pooled = _pooled(run, taps) if CRITERIA[settings.criterion].pools else None
    metrics = _metrics(run, shrinking, by_node)
    removals = _removals(run, widths, Captured(by_node, together, pooled, metrics))
    del together, pooled, metrics  # as large as what is still needed
    choices = [_choices(w, removal) for w, removal in zip(widths, removals, strict=True)]
    notes: list[str] = []
    if sensitivities:
        known = ConsumerMoments(by_node, train, DAMPING, run.backend)
        orders = [removal.path.order for removal in removals]
        validation = parts[-1].take(MEASURED, settings.seed)
        with run.progress.stage("Measuring sensitivities", len(validation)) as step:
            choices, notes = divergence_choices(
                analysis,
                choices,
                orders,
                known,
                validation,
                settings,
                step,
                coordinates=run.form.coordinates,
            )
    return PruningCurves(tuple(removals), tuple(choices), tuple(notes))


def _pooled(run: Run, taps: Sequence[Tap]) -> Pooled:
    """Pool every sample's feature maps and outputs; labels stand in for outputs where given."""
    analysis, labels, samples = run.analysis, run.settings.labels, run.samples.fit
    assert samples is not None
    with run.progress.stage("Pooling feature maps", len(samples)) as step:
        pooled = capture_pooled(analysis, axes_of(taps), samples, step)
    if labels is None:
        return pooled
    classes = read_labels(labels, samples)
    one_hot = (classes[:, None] == np.unique(classes)).astype(np.float64)
    return replace(pooled, outputs=one_hot[samples.indices])


def _metrics(run: Run, groups: Sequence[Group], taps: Mapping[str, Tap]) -> dict[str, OutputMetric]:
    """Measure what the model's outputs feel of layers at the ends of residual branches, by node.

    Those are layers whose own outputs have channels that other layers make as well. Elsewhere it
    was no help, or did harm, see docs/experiments.md.
    """
    settings, samples = run.settings, run.samples.fit
    assert samples is not None
    if CRITERIA[settings.criterion].ranks:
        return {}
    ends = {n for group in run.analysis.groups if not _is_inside(group) for n in group.producers}
    read = dict.fromkeys(node for group in groups if _is_inside(group) for node in group.consumers)
    ends &= {node for node, tap in taps.items() if not tap.others}  # one use tells too little
    layers = {node: taps[node].linear for node in read if node in ends}
    if not layers:
        return {}
    evaluation = Evaluation.of(run.analysis, samples.take(MEASURED, settings.seed), settings)
    with run.progress.stage("Measuring what outputs feel", len(evaluation.samples)) as step:
        found = output_metrics(evaluation, layers.values(), step)
    return {node: found[layer.y] for node, layer in layers.items() if layer.y in found}


def _is_inside(group: Group) -> bool:
    """Whether one layer alone makes the channels, as in a residual branch."""
    return len(group.producers) == 1


def _removals(run: Run, widths: Sequence[np.ndarray], captured: Captured) -> list[GroupRemoval]:
    """Follow the removal path of every group down to its narrowest width but 0."""
    removals = []
    with run.progress.stage("Choosing channels", len(widths)) as step:
        for index, allowed in enumerate(widths):
            removals.append(_removal(run, index, allowed, captured))
            step()
    return removals


def _removal(run: Run, index: int, allowed: np.ndarray, captured: Captured) -> GroupRemoval:
    if len(allowed) == 1:
        return GroupRemoval(RemovalPath(np.zeros(0, np.int64), np.zeros(0)))
    analysis, group = run.analysis, run.analysis.groups[index]
    ranking = _ranking(run.form, index, captured, run.settings)
    path, variance = group_path(
        group,
        analysis.flow,
        analysis.model,
        captured.taps,
        captured.moments,
        run.backend,
        steps=max(group.width - int(allowed[allowed > 0][0]), 1),
        order=None if ranking is None else ranking.order,
        metrics=captured.metrics if _is_inside(group) else None,
    )
    return GroupRemoval(path, variance, ranking)


def _ranking(form: Form, index: int, captured: Captured, settings: Settings) -> Ranking | None:
    """Ask the criterion to rank a group; None where it goes by the errors of the path itself.

    As do coordinates of a basis, of which other criteria know nothing.
    """
    analysis, criterion = form.analysis, CRITERIA[settings.criterion]
    group = analysis.groups[index]
    if index in form.coordinates:
        return None if captured.taps else Ranking(list(range(group.width))[::-1])
    if not criterion.ranks:
        return None
    known = captured if criterion.runs else Captured()
    seen = observe(group, analysis.flow, analysis.model, known, settings.seed)
    return ranking(settings.criterion, seen)


def _choices(widths: np.ndarray, removal: GroupRemoval) -> Choices:
    """Look up the error at every width.

    Without any unit it is all that an intercept leaves, of which later layers make up for more
    than for a branch that is narrowed.
    """
    errors = np.concatenate([[0.0], removal.path.errors])
    at = errors[widths[-1] - widths[widths > 0]]
    whole = [max(VANISHED * (removal.variance or 0.0), errors[-1])] * int((widths == 0).sum())
    return Choices(widths, np.concatenate([whole, at]))
