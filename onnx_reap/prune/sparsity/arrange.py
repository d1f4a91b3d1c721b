"""Which channel goes where, so that masks keep more of the scores.

Every layer that makes or reads a group of channels divides them into blocks: rows that share tiles,
input channels that share a column of tiles or a four. For tiles, channels are sorted by importance
[1]_ where the tiles above the threshold then hold more; for 2:4 they are exchanged in pairs.

References
----------
.. [1] Y. Li, Q. Ai, F. Ino, "A One-Shot Reparameterization Method for Reducing the Loss of Tile
       Pruning on DNNs" (TileTrans), 2022, arXiv:2207.14545.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.groups import Group
from onnx_reap.graph.labels.labels import LabelArray
from onnx_reap.prune.sparsity.exchange import Fours, exchange
from onnx_reap.prune.sparsity.importance import TileSide, sort_by_importance
from onnx_reap.prune.sparsity.layers import Layer, moved
from onnx_reap.prune.sparsity.permute import reorder
from onnx_reap.solve.patterns import Pattern, Scores, Tiles, block_sums

PASSES = 2  # over all groups, where pairs are exchanged
Features = npt.NDArray[np.float32]


def arrange(
    layers: Mapping[str, Layer],
    scores: Mapping[str, Scores],
    groups: Sequence[Group],
    pattern: Pattern,
) -> dict[int, int]:
    """Choose a place for every channel.

    Parameters
    ----------
    layers, scores : mappings by node
    groups : sequence of Group
        Whose channels may change places, within their part.

    Returns
    -------
    dict of int to int
        For units that move, the unit that takes their place.
    """
    place = {unit: unit for group in groups for unit in group.units}
    now = dict(scores)
    for _ in range(1 if isinstance(pattern, Tiles) else PASSES):
        before = dict(place)
        threshold = pattern.threshold(now) if isinstance(pattern, Tiles) else 0.0
        for group in groups:
            perm = _order(group, layers, now, pattern, threshold)
            content = [place[unit] for unit in group.units]
            place.update(
                (unit, content[p]) for unit, p in zip(group.units, perm.tolist(), strict=True)
            )
            _apply(group, layers, scores, place, now)
        if place == before:
            break
    return {unit: comes for unit, comes in place.items() if unit != comes}


def _order(
    group: Group,
    layers: Mapping[str, Layer],
    scores: Mapping[str, Scores],
    pattern: Pattern,
    threshold: float,
) -> npt.NDArray[np.int64]:
    """Return which of a group's channels goes to each place, (n,)."""
    parts = np.array(group.parts or (0,) * group.width)
    at = [
        (scores[node], axis, places)
        for node, layer in layers.items()
        for units, axis in ((layer.x_units, 2), (layer.y_units, 3))
        if (places := _places(units, group)) is not None
    ]
    if isinstance(pattern, Tiles):
        sides = [_tile_side(*each, pattern, threshold) for each in at]
        return sort_by_importance([side for side in sides if side is not None], parts)
    # Every output has fours of its own: only the order of input channels matters.
    return exchange([Fours(features(s, 2), where) for s, axis, where in at if axis == 2], parts)


def _apply(
    group: Group,
    layers: Mapping[str, Layer],
    scores: Mapping[str, Scores],
    place: Mapping[int, int],
    now: dict[str, Scores],
) -> None:
    """Bring the scores of the layers around a group into the present order."""
    own = np.array(group.units)
    for node, layer in layers.items():
        if np.isin(own, layer.x_units).any() or np.isin(own, layer.y_units).any():
            columns, rows = (reorder(u, place) for u in (layer.x_units, layer.y_units))
            assert columns is not None and rows is not None  # groups are movable
            now[node] = moved(scores[node], columns, rows)


def _places(units: LabelArray, group: Group) -> npt.NDArray[np.int64] | None:
    """Position of each unit of a group along an axis; None unless each occurs once."""
    where = {}
    for position, unit in enumerate(units.tolist()):
        if unit in where:
            where[unit] = -1
        else:
            where[unit] = position
    at = np.array([where.get(unit, -1) for unit in group.units])
    return None if (at < 0).any() else at


def _tile_side(
    score: Scores, axis: int, at: npt.NDArray[np.int64], pattern: Tiles, threshold: float
) -> TileSide | None:
    own, other = (pattern.columns, pattern.rows) if axis == 2 else (pattern.rows, pattern.columns)
    if own == 1:
        return None
    length = score.shape[axis]
    sums = features(block_sums(score, 5 - axis, other), axis)
    width = features(block_sums(np.ones(score.shape), 5 - axis, other), axis)
    place = np.arange(score.shape[0] * length)
    block = place // length * -(-length // own) + place % length // own
    sizes = np.bincount(block)[block]
    limit = (threshold * sizes[:, None] * width).astype(np.float32)
    return TileSide(sums, block, at, limit)


def features(score: Scores, axis: int) -> Features:
    """Lay out (g, T, C, O) scores by position along inputs or outputs: (g * C, T * O) or so."""
    order = (0, 2, 1, 3) if axis == 2 else (0, 3, 1, 2)
    x = score.transpose(order)
    return x.reshape(x.shape[0] * x.shape[1], -1).astype(np.float32)
