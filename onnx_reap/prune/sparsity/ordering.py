"""Putting channels in order where that loses less, and proving that the function stays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.measure.compare import SAME, compare, comparison_feeds, keep_sound
from onnx_reap.prune.context import Run
from onnx_reap.prune.sparsity.arrange import WIDEST, arrange
from onnx_reap.prune.sparsity.layers import Layer, moved
from onnx_reap.prune.sparsity.permute import Permutation, movable, orders, permute_graph, reorder
from onnx_reap.solve.patterns import Mask, Pattern, Scores, share_lost

TOO_WIDE = f"more than {WIDEST:,} channels have too many pairs to look at"


@dataclass(frozen=True)
class Arranged:
    """A model whose channels are in order, and its masks."""

    model: Model
    permutation: Permutation
    # (g, T, C, O) bool: by node: of `model`, and those that there would be without a change of
    # order
    masks: Mapping[str, Mask]
    before: Mapping[str, Mask]
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
    if not run.settings.permutation:
        return Arranged(analysis.copy(), {}, before, before, {})
    free, skipped = movable(analysis.model, analysis.flow, analysis.groups)
    skipped |= {group.name: TOO_WIDE for group in free if group.width > WIDEST}
    free = [group for group in free if group.width <= WIDEST]
    with run.progress.stage("Putting channels in order") as step:
        wanted = arrange(layers, scores, free, pattern)
        step()
    permutation, broken, difference, notes = _checked(run, wanted, free)
    skipped |= broken
    now = in_new_order(layers, scores, permutation)
    masks = pattern.masks(now)
    if not permutation or share_lost(now, masks) >= share_lost(scores, before):
        return Arranged(analysis.copy(), {}, before, before, skipped)
    model = permuted(analysis, permutation)
    return Arranged(model, permutation, masks, before, skipped, difference, tuple(notes))


def in_new_order(
    layers: Mapping[str, Layer], grids: Mapping[str, np.ndarray], permutation: Permutation
) -> dict[str, np.ndarray]:
    """Put scores or masks of layers, (g, T, C, O) by node, into another order."""
    return {node: moved(grid, *order_at(layers[node], permutation)) for node, grid in grids.items()}


def order_at(layer: Layer, permutation: Permutation) -> tuple[np.ndarray, np.ndarray]:
    """Return which input (g * C,) and which output (g * O,) of a layer comes to each place."""
    columns, rows = (reorder(units, permutation) for units in (layer.x_units, layer.y_units))
    assert columns is not None and rows is not None
    return columns, rows


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

    kept, refused, found = keep_sound(groups, lambda some: _difference(run, of(some)))
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
