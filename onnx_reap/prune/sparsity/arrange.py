"""Which channel goes where, so that masks keep more of the scores.

Every layer that makes or reads a group of channels divides them into blocks: rows that share tiles,
input channels that share a column of tiles or a four. Let c be the scores of a channel and r those
of what else is in the block. A block is worth

    sum_k max(r_k + c_k - t, 0)         for tiles: what they hold above the threshold t, or
    sum_k max(b_k, c_k) + a_k           for 2:4: the two largest, a_k and b_k those of the others.

If V[i, j] is what the block of place i is worth with channel j in that place, then exchanging the
two gains V[i, j] + V[j, i] - V[i, i] - V[j, j], summed over all layers. The best exchanges are made
until none gains, as [1]_ do for 2:4; for tiles the start is the order by importance of [2]_, where
it is worth more.

References
----------
.. [1] J. Pool, C. Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021.
.. [2] Y. Li, Q. Ai, F. Ino, "A One-Shot Reparameterization Method for Reducing the Loss of Tile
       Pruning on DNNs" (TileTrans), 2022, arXiv:2207.14545.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.groups import Group
from onnx_reap.graph.labels.labels import LabelArray
from onnx_reap.prune.sparsity.layers import Layer, moved
from onnx_reap.prune.sparsity.permute import Permutation, reorder
from onnx_reap.solve.patterns import Pattern, Scores, Tiles, block_sums

PASSES = 2  # over all groups
EXCHANGE_ROUNDS = 60  # in a group, at most
PAIRS_A_CHANNEL = 32  # by channel, the best that a round of exchanges chooses from
MOST_CHANNELS = 4096  # channels of a group whose pairs can all be looked at
ROUND_ENTRIES = 2**27  # numbers that a round of exchanges may look at
CHUNK_ENTRIES = 2**22  # of them held at a time
LEAST_GAIN = 1e-6  # of what the blocks are worth: less is not worth an exchange
LEAST_ROUND_GAIN = 1e-4  # of what the blocks are worth: less is not worth another round

Features = npt.NDArray[np.float32]


@dataclass
class Side:
    """How one layer divides a group's channels into blocks."""

    features: Features  # (P, K) float32: scores by position along the layer's axis
    block: npt.NDArray[np.int64]  # (P,) int: that each position is in
    at: npt.NDArray[np.int64]  # (n,) int: positions of the group's places
    limit: Features | None  # (P, K) float32: threshold of the block's sums; None for 2:4

    def exchanged(self, perm: npt.NDArray[np.int64]) -> Side:
        """Return it with another order of the group's channels."""
        features = self.features.copy()
        features[self.at] = self.features[self.at[perm]]
        return Side(features, self.block, self.at, self.limit)

    def worth(self) -> float:
        """Return what all blocks are worth."""
        others = self._others()
        _, first = np.unique(self.block[self.at], return_index=True)
        return float(self._value(others[first], self.features[self.at][first]).sum())

    def gains(self) -> npt.NDArray[np.float64]:
        """Gain of every exchange, (n, n)."""
        others, own = self._others(), self.features[self.at]
        n, k = own.shape
        values = np.empty((n, n))
        step = max(1, CHUNK_ENTRIES // max(n * k, 1))
        for at in range(0, n, step):
            part = others[at : at + step]
            values[at : at + step] = self._value(part[:, None], own[None])
        stays = np.diagonal(values)
        gains = values + values.T - stays[:, None] - stays[None]
        block = self.block[self.at]
        gains[block[:, None] == block[None]] = 0  # their block holds both before and after
        return gains

    def _others(self) -> Features:
        """By place, what tells the value of its block: (n, K) float32."""
        if self.limit is not None:
            sums = np.zeros((self.block.max() + 1, self.features.shape[1]), np.float32)
            np.add.at(sums, self.block, self.features)
            where = self.at
            return sums[self.block[where]] - self.features[where] - self.limit[where]
        fours = self.features.reshape(-1, 4, self.features.shape[1])
        second = np.empty_like(fours)
        for place in range(4):
            rest = np.delete(fours, place, axis=1)
            second[:, place] = np.sort(rest, axis=1)[:, 1]
        return second.reshape(self.features.shape)[self.at]

    def _value(self, others: Features, own: Features) -> npt.NDArray[np.float64]:
        """Value of blocks, summed over the last axis, but for what doesn't depend on `own`."""
        kept = np.maximum(others, own) if self.limit is None else np.maximum(others + own, 0)
        value: npt.NDArray[np.float64] = kept.sum(axis=-1)
        return value


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

    Returns
    -------
    dict of int to int
        For units that move, the unit that takes their place.
    """
    place = {unit: unit for group in groups for unit in group.units}
    now = dict(scores)
    for number in range(PASSES):
        threshold = pattern.threshold(now) if isinstance(pattern, Tiles) else 0.0
        before = dict(place)
        for group in groups:
            sides = _sides(group, layers, now, pattern, threshold)
            if not sides:
                continue
            perm = _exchange(sides, _parts(group), sort=number == 0 and isinstance(pattern, Tiles))
            content = [place[unit] for unit in group.units]
            place.update(
                (unit, content[p]) for unit, p in zip(group.units, perm.tolist(), strict=True)
            )
            _apply(group, layers, scores, place, now)
        if place == before:
            break
    return {unit: comes for unit, comes in place.items() if unit != comes}


def _parts(group: Group) -> npt.NDArray[np.int64]:
    return np.array(group.parts or (0,) * group.width)


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
            now[node] = in_order(layer, scores[node], place)


def in_order(layer: Layer, grid: np.ndarray, permutation: Permutation) -> np.ndarray:
    """Put a layer's (g, T, C, O) scores or mask into another order of the channels around it."""
    columns, rows = (reorder(units, permutation) for units in (layer.x_units, layer.y_units))
    assert columns is not None and rows is not None  # groups are movable
    return moved(grid, columns, rows)


def _sides(
    group: Group,
    layers: Mapping[str, Layer],
    scores: Mapping[str, Scores],
    pattern: Pattern,
    threshold: float,
) -> list[Side]:
    """Find the layers in which the order of a group's channels matters."""
    found = []
    most = max(ROUND_ENTRIES // group.width**2, 8)
    for node, layer in layers.items():
        for units, axis in ((layer.x_units, 2), (layer.y_units, 3)):
            at = _places(units, group)
            if at is None:
                continue
            side = _side(scores[node], axis, at, pattern, threshold)
            if side is not None:
                found.append(side)
    total = sum(side.features.shape[1] for side in found)
    return [_thinned(side, most / total) for side in found] if total > most else found


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


def _side(
    score: Scores, axis: int, at: npt.NDArray[np.int64], pattern: Pattern, threshold: float
) -> Side | None:
    length = score.shape[axis]
    if not isinstance(pattern, Tiles):
        if axis == 3:
            return None  # every output has fours of its own
        return Side(_features(score, 2), np.arange(score.shape[0] * length) // 4, at, None)
    own, other = (pattern.columns, pattern.rows) if axis == 2 else (pattern.rows, pattern.columns)
    if own == 1:
        return None
    features = _features(block_sums(score, 5 - axis, other), axis)
    width = _features(block_sums(np.ones(score.shape), 5 - axis, other), axis)
    place = np.arange(score.shape[0] * length)
    block = place // length * -(-length // own) + place % length // own
    sizes = np.bincount(block)[block]
    limit = (threshold * sizes[:, None] * width).astype(np.float32)
    return Side(features, block, at, limit)


def _features(score: Scores, axis: int) -> Features:
    """Lay out (g, T, C, O) scores by position along inputs or outputs: (g * C, T * O) or so."""
    order = (0, 2, 1, 3) if axis == 2 else (0, 3, 1, 2)
    x = score.transpose(order)
    return x.reshape(x.shape[0] * x.shape[1], -1).astype(np.float32)


def _thinned(side: Side, share: float) -> Side:
    """Keep the features in which channels differ most."""
    keep = max(1, int(side.features.shape[1] * share))
    best = np.sort(np.argsort(-np.var(side.features, axis=0), kind="stable")[:keep])
    limit = None if side.limit is None else side.limit[:, best]
    return Side(side.features[:, best], side.block, side.at, limit)


def _exchange(
    sides: Sequence[Side], parts: npt.NDArray[np.int64], *, sort: bool
) -> npt.NDArray[np.int64]:
    """Return which of a group's channels goes to each place, (n,)."""
    n = len(parts)
    perm = np.arange(n)
    if sort:
        by_importance = _by_importance(sides, parts)
        before, after = (
            sum(side.exchanged(order).worth() for side in sides) for order in (perm, by_importance)
        )
        perm = by_importance if after > before else perm
    sides = [side.exchanged(perm) for side in sides]
    worth = sum(side.worth() for side in sides)
    for _ in range(EXCHANGE_ROUNDS):
        gains = sum(side.gains() for side in sides)
        gains = np.where(parts[:, None] == parts[None], gains, 0)
        swap = _best_pairs(np.triu(gains, 1), sides, LEAST_GAIN * worth)
        gained = float(gains[np.arange(n), swap].sum()) / 2  # each exchange is there twice
        perm, sides = perm[swap], [side.exchanged(swap) for side in sides]
        if gained <= LEAST_ROUND_GAIN * worth:
            break
    return perm


def _by_importance(sides: Sequence[Side], parts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Put channels into the order of their scores, within their part."""
    total = sum(side.features[side.at].sum(axis=1) for side in sides)
    perm = np.arange(len(parts))
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        perm[own] = own[np.argsort(-total[own], kind="stable")]
    return perm


def _best_pairs(
    gains: npt.NDArray[np.float64], sides: Sequence[Side], floor: float
) -> npt.NDArray[np.int64]:
    """Choose the best exchanges of which no two touch the same block, (n,)."""
    n = len(gains)
    candidates = np.flatnonzero(gains > floor)
    if len(candidates) > (most := PAIRS_A_CHANNEL * n):
        candidates = candidates[np.argpartition(-gains.ravel()[candidates], most)[:most]]
    swap = np.arange(n)
    taken = [np.zeros(side.block.max() + 1, bool) for side in sides]
    blocks = [side.block[side.at] for side in sides]
    order = candidates[np.argsort(-gains.ravel()[candidates], kind="stable")]
    for i, j in zip(*(x.tolist() for x in np.unravel_index(order, gains.shape)), strict=True):
        if any(t[b[i]] or t[b[j]] for t, b in zip(taken, blocks, strict=True)):
            continue
        swap[[i, j]] = j, i
        for t, b in zip(taken, blocks, strict=True):
            t[b[[i, j]]] = True
    return swap
