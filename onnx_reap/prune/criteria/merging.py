"""Hierarchical clustering as a ranking: of two clusters that merge, one representative goes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_reap.prune.criteria.observation import Matrix, Order, Seen
from onnx_reap.prune.criteria.ranking import Heir, Ranking
from onnx_reap.prune.criteria.turns import balanced

Link = Callable[[Order], Matrix]


def merging(seen: Seen, link: Link, strength: Matrix) -> Ranking:
    """Let the weaker of two representatives go whenever their clusters merge; the other takes over.

    Parameters
    ----------
    link : callable
        Takes units, at least two, and returns how they merge: (n - 1, 4) array, as
        `scipy.cluster.hierarchy.linkage` does.
    strength : (U,) array
        The strongest unit of a cluster represents it.

    Returns
    -------
    Ranking
        Parts are clustered apart from each other, since each keeps as many units.
    """
    parts = np.zeros(seen.width, np.int64) if seen.parts is None else seen.parts
    heirs: dict[int, Heir] = {}
    orders = [_merged(np.flatnonzero(parts == p), link, strength, heirs) for p in np.unique(parts)]
    return Ranking(balanced(np.concatenate(orders), seen.parts).tolist(), heirs)


def _merged(units: Order, link: Link, strength: Matrix, heirs: dict[int, Heir]) -> Order:
    if len(units) < 2:
        return units
    heads, gone = units.tolist(), []  # by cluster; what went
    for pair in link(units)[:, :2].astype(int):
        weak, strong = sorted((heads[c] for c in pair), key=lambda u: (strength[u], -u))
        heirs[weak] = Heir(strong, 1.0)
        gone.append(weak)
        heads.append(strong)
    return np.array([*gone, heads[-1]], np.int64)
