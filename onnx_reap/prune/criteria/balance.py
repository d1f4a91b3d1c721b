"""Orders in which the parts of a group, such as those of a grouped convolution, shrink alike."""

from collections.abc import Callable, Iterable

import numpy as np

from onnx_reap.prune.criteria.observation import Matrix, Observation, Order


def balanced(order: Iterable[int], parts: Iterable[int] | None) -> Order:
    """Visit the parts of a group in rounds, and keep the order within each of them.

    Parameters
    ----------
    order : iterable of int
        All units.
    parts : iterable of int, by unit, optional
    """
    order = np.array(list(order), np.int64)
    if parts is None:
        return order
    part = np.array(list(parts))[order]
    rounds = np.zeros(len(order), np.int64)
    for p in np.unique(part):
        rounds[part == p] = np.arange((part == p).sum())
    return order[np.lexsort((part, rounds))]


def greedily(
    observed: Observation, scores: Callable[[], Matrix], gone: Callable[[int], None]
) -> Order:
    """Remove the unit of least score, of those whose turn it is, one after the other.

    Parameters
    ----------
    scores : callable
        Returns the score of every unit as things are, (U,) array.
    gone : callable
        Told each unit that goes.
    """
    width, parts = observed.width, observed.parts
    part = np.zeros(width, np.int64) if parts is None else np.unique(parts, return_inverse=True)[1]
    lost = np.zeros(part.max() + 1, np.int64)
    alive = np.ones(width, np.bool_)
    order = []
    for _ in range(width):
        due = alive & (lost[part] == lost[part[alive]].min())
        unit = int(np.argmin(np.where(due, scores(), np.inf)))
        order.append(unit)
        alive[unit] = False
        lost[part[unit]] += 1
        gone(unit)
    return np.array(order, np.int64)
