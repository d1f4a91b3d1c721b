"""Exchanging channels in pairs, so that every four holds two of the large weights.

Of each four that a channel is in, let a and b be the first and second largest of the other three
scores. With the channel's own score c the four keeps a + max(b, c). If V[i, j] is the sum of
max(b, c) for channel j in place i, then exchanging the two gains V[i, j] + V[j, i] - V[i, i] -
V[j, j], summed over all layers. The best exchanges are made until none gains [1]_.

References
----------
.. [1] J. Pool, C. Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROUNDS = 60  # of exchanges in a group
PAIRS = 32  # by channel, the best that a round of exchanges chooses from
WIDEST = 4096  # channels of a group whose pairs can all be looked at
ENTRIES = 2**27  # numbers that a round of exchanges may look at
CHUNK = 2**22  # of them held at a time
GAIN = 1e-6  # of what the fours keep: less is not worth an exchange,
LAST = 1e-4  # nor another round

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fours:
    """How one layer divides a group's channels into fours.

    Attributes
    ----------
    features : (P, K) float32 array
        Scores by input channel of the layer.
    at : (n,) int array
        Positions of the group's places.
    """

    features: npt.NDArray[np.float32]
    at: Ints

    @property
    def block(self) -> Ints:
        """The four of each place, (n,)."""
        return self.at // 4

    def exchanged(self, perm: Ints) -> Fours:
        """Return it with another order of the group's channels."""
        features = self.features.copy()
        features[self.at] = self.features[self.at[perm]]
        return Fours(features, self.at)

    def thinned(self, share: float) -> Fours:
        """Keep the features in which channels differ most."""
        keep = max(1, int(self.features.shape[1] * share))
        best = np.argsort(-np.var(self.features, axis=0), kind="stable")[:keep]
        return Fours(self.features[:, np.sort(best)], self.at)

    def worth(self) -> float:
        """Return what all fours keep, but for the largest of the others."""
        _, first = np.unique(self.block, return_index=True)
        kept = np.maximum(self._second()[first], self.features[self.at][first])
        return float(kept.sum(axis=-1).sum())

    def gains(self) -> Floats:
        """Gain of every exchange, (n, n)."""
        second, own = self._second(), self.features[self.at]
        n, k = own.shape
        values = np.empty((n, n))
        step = max(1, CHUNK // max(n * k, 1))
        for at in range(0, n, step):
            part = second[at : at + step]
            values[at : at + step] = np.maximum(part[:, None], own[None]).sum(axis=-1)
        stays = np.diagonal(values)
        gains = values + values.T - stays[:, None] - stays[None]
        gains[self.block[:, None] == self.block[None]] = 0  # their four holds both anyway
        return gains

    def _second(self) -> npt.NDArray[np.float32]:
        """By place, the second largest of the other three: (n, K) float32."""
        fours = self.features.reshape(-1, 4, self.features.shape[1])
        second = np.empty_like(fours)
        for place in range(4):
            second[:, place] = np.sort(np.delete(fours, place, axis=1), axis=1)[:, 1]
        return second.reshape(self.features.shape)[self.at]


def exchange(sides: Sequence[Fours], parts: Ints) -> Ints:
    """Return which of n channels goes to each place, (n,).

    Parameters
    ----------
    parts : (n,) int array
        Channels stay within their part.
    """
    n = len(parts)
    perm = np.arange(n)
    if not sides:
        return perm
    most, total = max(ENTRIES // n**2, 8), sum(side.features.shape[1] for side in sides)
    if total > most:
        sides = [side.thinned(most / total) for side in sides]
    worth = sum(side.worth() for side in sides)
    for _ in range(ROUNDS):
        gains = sum(side.gains() for side in sides)
        gains = np.where(parts[:, None] == parts[None], gains, 0)
        swap = _best_pairs(np.triu(gains, 1), sides, GAIN * worth)
        gained = float(gains[np.arange(n), swap].sum()) / 2  # each exchange is there twice
        perm, sides = perm[swap], [side.exchanged(swap) for side in sides]
        if gained <= LAST * worth:
            break
    return perm


def _best_pairs(gains: Floats, sides: Sequence[Fours], floor: float) -> Ints:
    """Choose the best exchanges of which no two touch the same four, (n,)."""
    n = len(gains)
    candidates = np.flatnonzero(gains > floor)
    if len(candidates) > (most := PAIRS * n):
        candidates = candidates[np.argpartition(-gains.ravel()[candidates], most)[:most]]
    swap = np.arange(n)
    taken = [np.zeros(side.block.max() + 1, bool) for side in sides]
    blocks = [side.block for side in sides]
    order = candidates[np.argsort(-gains.ravel()[candidates], kind="stable")]
    for i, j in zip(*(x.tolist() for x in np.unravel_index(order, gains.shape)), strict=True):
        if any(t[b[i]] or t[b[j]] for t, b in zip(taken, blocks, strict=True)):
            continue
        swap[[i, j]] = j, i
        for t, b in zip(taken, blocks, strict=True):
            t[b[[i, j]]] = True
    return swap
