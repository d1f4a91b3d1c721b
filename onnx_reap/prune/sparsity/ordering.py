"""Putting channels in order where that loses less, and proving that the function stays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.measure.compare import SAME, compare, comparison_feeds
from onnx_reap.measure.passing import keep_passing
from onnx_reap.prune.context import Run
from onnx_reap.prune.sparsity.arrange import MOST_CHANNELS, arrange, in_order
from onnx_reap.prune.sparsity.layers import Layer
from onnx_reap.prune.sparsity.permute import Permutation, movable, orders, permute_graph
from onnx_reap.solve.patterns import Mask, Pattern, Scores, share_lost

TOO_WIDE = f"more than {MOST_CHANNELS:,} channels have too many pairs to look at"


@dataclass(frozen=True)
class Arranged:
    """A model whose channels are in order, and its masks."""

    model: Model
    permutation: Permutation
    masks: Mapping[str, Mask]  # By node, (g, T, C, O) bool
    # Share of all scores that these take, and that masks would without a change of order
    score_lost: float
    score_lost_unpermuted: float
    skipped: Mapping[str, str]  # By group, why its channels stay in their order
    # Largest difference of an output to the model's before, relative to its largest entry
    difference: float | None = None
    notes: tuple[str, ...] = ()


def put_in_order(
    run: Run, layers: Mapping[str, Layer], scores: Mapping[str, Scores], pattern: Pattern
) -> Arranged:
    """Put channels in order, if that is wanted and keeps more of the scores."""
    analysis = run.analysis
    before = pattern.masks(scores)
    lost_before = share_lost(scores, before)
    as_it_is = Arranged(analysis.copy(), {}, before, lost_before, lost_before, {})
    if not run.settings.permutation:
        return as_it_is
    free, skipped = movable(analysis.model, analysis.flow, analysis.groups)
    skipped |= {group.name: TOO_WIDE for group in free if group.width > MOST_CHANNELS}
    free = [group for group in free if group.width <= MOST_CHANNELS]
    with run.progress.stage("Putting channels in order") as step:
        wanted = arrange(layers, scores, free, pattern)
        step()
    permutation, broken, difference, notes = _checked(run, wanted, free)
    skipped |= broken
    now = in_new_order(layers, scores, permutation)
    masks = pattern.masks(now)
    lost = share_lost(now, masks)
    if not permutation or lost >= lost_before:
        return replace(as_it_is, skipped=skipped)
    model = permuted(analysis, permutation)
    return Arranged(model, permutation, masks, lost, lost_before, skipped, difference, tuple(notes))


def in_new_order(
    layers: Mapping[str, Layer], grids: Mapping[str, np.ndarray], permutation: Permutation
) -> dict[str, np.ndarray]:
    """Put scores or masks of layers, (g, T, C, O) by node, into another order."""
    return {node: in_order(layers[node], grid, permutation) for node, grid in grids.items()}


def permuted(analysis: Analysis, permutation: Permutation) -> Model:
    """Copy a model with its channels in another order."""
    model = analysis.copy()
    permute_graph(model, analysis.flow, _orders(analysis, permutation))
    return model


def _orders(analysis: Analysis, permutation: Permutation) -> Kept:
    found = orders(analysis.flow, permutation)
    assert not isinstance(found, str), found  # only movable groups are put in order
    return found


def _checked(
    run: Run, permutation: Permutation, groups: list[Group]
) -> tuple[Permutation, dict[str, str], float | None, list[str]]:
    """Leave out the groups with which the function changes, one by one if any does."""
    if not permutation:
        return permutation, {}, None, []

    def of(some: Iterable[Group]) -> Permutation:
        units = (unit for group in some for unit in group.units if unit in permutation)
        return {unit: permutation[unit] for unit in units}

    kept, refused, found = keep_passing(groups, lambda some: _difference(run, of(some)))
    broken = {group.name: f"the function changed: {error}" for group, error in refused}
    return of(kept), broken, *(found or (None, []))


def _difference(run: Run, permutation: Permutation) -> tuple[float, list[str]]:
    """Compare a model with itself in another order, on random inputs of several scales."""
    analysis = run.analysis
    return compare(
        analysis.model.to_run(),
        permuted(analysis, permutation).to_run(),
        comparison_feeds(run.samples.every, analysis.fixed_batch, run.settings.seed),
        analysis.providers,
        SAME,
        places=_orders(analysis, permutation),
        also=[linear.y for linear in analysis.flow.linears],
    )
