"""Zeros in a pattern: channels are put in order, weights masked, and what stays is repaired.

This works on a finished model, whatever was done to it before, and takes that model's activations
as the target.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import count_parameters
from onnx_reap.graph.edit.weights import set_weight
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.activations.rows import matrix_to_weight
from onnx_reap.measure.activations.variances import variances
from onnx_reap.options import Settings
from onnx_reap.prune.apply import Pruned, apply_choice, finish
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import choice_of
from onnx_reap.prune.goal import check_globs
from onnx_reap.prune.refit.layer import LayerRefit
from onnx_reap.prune.refit.order import Zeros
from onnx_reap.prune.refit.repairs import Repairs, repair_with_zeros
from onnx_reap.prune.sparsity.choose import choose, takes_long
from onnx_reap.prune.sparsity.layers import (
    EXCLUDED,
    Layer,
    find_layers,
    from_grid,
    score,
    weight_matrix,
)
from onnx_reap.prune.sparsity.ordering import (
    Arranged,
    in_new_order,
    permuted,
    put_in_order,
)
from onnx_reap.prune.sparsity.records import DenseLayer, TiledLayer, Tiling
from onnx_reap.solve.patterns import Pattern, Scores, Tiles, TwoOfFour, read_tile, share_lost

ROUNDED = 0.01  # of the weights: so many zeros fewer than asked for are not worth a word


def read_pattern(settings: Settings) -> Pattern | None:
    """Return the pattern that was asked for, if any was."""
    if settings.pattern is not None:
        return TwoOfFour()
    size = None if settings.tile is None else read_tile(settings.tile)
    return None if size is None else Tiles(*size, settings.tile_sparsity or 0.0)


def untouched(run: Run) -> Pruned:
    """Return the model without losing any channels."""
    check_globs(run.analysis, run.settings)
    return apply_choice(run, choice_of(run.analysis, ()))


def with_zeros(run: Run, pruned: Pruned, pattern: Pattern) -> tuple[Pruned, Tiling]:
    """Zero weights of a finished model in a pattern, and repair those that stay.

    Raises
    ------
    ReapError
        If no layer can take the pattern.
    """
    with run.clock("zeros"):
        dense = run.on(run.analysed(pruned.model))
        model, flow = dense.analysis.model, dense.analysis.flow
        layers, left = find_layers(model, flow, pattern, run.reason_to_keep)
        if not layers:
            raise _no_layer(pattern, left)
        scores = _scores(dense, layers)
        arranged = put_in_order(dense, layers, scores, pattern)
        sparse, repairs = _masked(dense, layers, arranged, pattern)
        out = finish(sparse, run.settings)
    now = in_new_order(layers, scores, arranged.permutation)
    tiling = _described(pattern, left, now, arranged, repairs.layers, sparse)
    notes = [*pruned.notes, *arranged.notes, *repairs.notes, *_fewer(pattern, tiling.zeros)]
    before = pruned.repairs
    repairs = replace(
        before,
        layers={**before.layers, **repairs.layers},
        network=repairs.network or before.network,
    )
    pruned = replace(
        pruned,
        model=out,
        params=count_parameters(out),
        repairs=repairs,
        notes=tuple(notes),
    )
    return pruned, tiling


def _fewer(pattern: Pattern, zeros: float) -> list[str]:
    """Say so where tiles don't add up to what was asked for."""
    if not isinstance(pattern, Tiles) or zeros >= pattern.sparsity - ROUNDED:
        return []
    return [
        f"--tile-sparsity: {zeros:.1%} of the weights are zero, not {pattern.sparsity:.1%}: tiles "
        "go whole, and of every layer some stay; smaller tiles come nearer"
    ]


def _no_layer(pattern: Pattern, left: Mapping[str, str]) -> ReapError:
    node, why = next(iter(left.items()), ("the model", "no layers with constant weights"))
    excluded = set(left.values()) == {EXCLUDED}
    return ReapError(
        f"no layer can have {pattern} zeros",
        got=f"{node}: {why}",
        expected="a convolution or dense layer that fits the pattern",
        hint="loosen --exclude or --include"
        if excluded
        else "--tile 8x1 --tile-sparsity 0.5 fits every width",
    )


def _scores(run: Run, layers: Mapping[str, Layer]) -> dict[str, Scores]:
    """Score all weights; by magnitude alone where there is no data."""
    model = run.analysis.model
    weights = {node: weight_matrix(model, layer.linear) for node, layer in layers.items()}
    samples, analysis = run.samples.fit, run.analysis
    if samples is None:
        return {node: score(layers[node].linear, w, None, None) for node, w in weights.items()}
    asked = [(layers[node].linear, [w]) for node, w in weights.items()]
    with run.progress.stage("Measuring input variances", len(samples)) as step:
        seen = variances(analysis, asked, samples, run.settings, step)
    return {
        node: score(layers[node].linear, w, seen[node][0], seen[node][1][0])
        for node, w in weights.items()
    }


def _masked(
    run: Run, layers: Mapping[str, Layer], arranged: Arranged, pattern: Pattern
) -> tuple[Model, Repairs]:
    """Set weights to zero, and repair the others unless the settings forbid it."""
    analysis = replace(run.analysis, model=arranged.model)
    sparse = permuted(run.analysis, arranged.permutation)
    zeros = {}
    for node, layer in layers.items():
        stored = sparse.node(node).inputs[1].values
        mask = from_grid(arranged.masks[node])
        zeros[node] = Zeros(mask, partial(choose, pattern, taps=layer.linear.taps))
        matrix = weight_matrix(sparse, layer.linear) * mask
        set_weight(sparse, layer.linear, matrix_to_weight(layer.linear, matrix, stored))
    if not run.settings.refit or run.samples.fit is None:
        return sparse, Repairs({})
    large = [node for node, each in zeros.items() if takes_long(pattern, each.mask)]
    repairs = repair_with_zeros(run.on(analysis), sparse, zeros)
    whole = "keeps the tiles of the best scores: it is too large for more"
    return sparse, replace(repairs, notes=(*repairs.notes, *(f"{node} {whole}" for node in large)))


def _described(
    pattern: Pattern,
    left: Mapping[str, str],
    scores: Mapping[str, Scores],
    arranged: Arranged,
    fitted: Mapping[str, LayerRefit],
    sparse: Model,
) -> Tiling:
    rows, size, kept = [], 0, 0
    for node, mask in arranged.masks.items():
        fit = fitted.get(node)
        own = int(np.count_nonzero(sparse.node(node).inputs[1].values))
        size, kept = size + mask.size, kept + own
        rows.append(
            TiledLayer(
                node,
                1 - own / mask.size,
                share_lost({node: scores[node]}, {node: mask}),
                None if fit is None else fit.error_before,
                None if fit is None else fit.error_after,
            )
        )
    return Tiling(
        pattern=str(pattern),
        zeros=1 - kept / size,
        permuted=len(arranged.permutation),
        difference=arranged.difference,
        score_lost=arranged.score_lost,
        score_lost_unpermuted=arranged.score_lost_unpermuted,
        layers=tuple(rows),
        dense=tuple(DenseLayer(node, why) for node, why in left.items()),
        unmoved=dict(arranged.skipped),
    )
