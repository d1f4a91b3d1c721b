"""Hierarchical clustering as a ranking: of two clusters that merge, one representative goes."""

from collections.abc import Callable

import numpy as np

from onnx_reap.prune.criteria.balance import balanced
from onnx_reap.prune.criteria.observation import Matrix, Observation, Order
from onnx_reap.prune.criteria.ranking import MergeTarget, Ranking

Link = Callable[[Order], Matrix]


def merging(observed: Observation, link: Link, strength: Matrix) -> Ranking:
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
    parts = np.zeros(observed.width, np.int64) if observed.parts is None else observed.parts
    targets: dict[int, MergeTarget] = {}
    orders = [
        _merged(np.flatnonzero(parts == p), link, strength, targets) for p in np.unique(parts)
    ]
    return Ranking(balanced(np.concatenate(orders), observed.parts).tolist(), targets)


def _merged(units: Order, link: Link, strength: Matrix, targets: dict[int, MergeTarget]) -> Order:
    if len(units) < 2:
        return units
    heads, gone = units.tolist(), []  # by cluster; what went
    for pair in link(units)[:, :2].astype(int):
        weak, strong = sorted((heads[c] for c in pair), key=lambda u: (strength[u], -u))
        targets[weak] = MergeTarget(strong, 1.0)
        gone.append(weak)
        heads.append(strong)
    return np.array([*gone, heads[-1]], np.int64)
