"""Hierarchical clustering as an order: of two clusters that merge, one representative goes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_reap.criteria.seen import Matrix, Order, Seen
from onnx_reap.criteria.turns import balanced

Link = Callable[[Order], Matrix]


def merging_order(seen: Seen, link: Link, strength: Matrix) -> Order:
    """Let the weaker of two representatives go whenever their clusters merge.

    Parameters
    ----------
    link : callable
        Takes units, at least two, and returns how they merge: (n - 1, 4) array, as
        `scipy.cluster.hierarchy.linkage` does.
    strength : (U,) array
        The strongest unit of a cluster represents it.

    Returns
    -------
    (U,) int array
        Parts are clustered apart from each other, since each keeps as many units.
    """
    parts = np.zeros(seen.width, np.int64) if seen.parts is None else seen.parts
    orders = [_merged(np.flatnonzero(parts == p), link, strength) for p in np.unique(parts)]
    return balanced(np.concatenate(orders), seen.parts)


def _merged(units: Order, link: Link, strength: Matrix) -> Order:
    if len(units) < 2:
        return units
    heads, gone = units.tolist(), []  # by cluster; what went
    for pair in link(units)[:, :2].astype(int):
        weak, strong = sorted((heads[c] for c in pair), key=lambda u: (strength[u], -u))
        gone.append(weak)
        heads.append(strong)
    return np.array([*gone, heads[-1]], np.int64)
