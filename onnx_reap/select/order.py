"""Baseline orders of removal that need no data."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from onnx_reap.capture.rows import weight_to_matrix
from onnx_reap.graph.channels import Group
from onnx_reap.graph.model import Model
from onnx_reap.graph.records import Flow


def l1_order(group: Group, flow: Flow, model: Model) -> np.ndarray:
    """Order units by the absolute sum of the weights that make them, smallest first.

    Returns
    -------
    (U,) int64 array

    References
    ----------
    H. Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """
    place = {unit: i for i, unit in enumerate(group.units)}
    scores = np.zeros(group.width)
    constants = model.constants()
    for linear in flow.linears:
        if linear.node not in group.producers:
            continue
        weight = weight_to_matrix(linear, constants[linear.weight].values)
        norms = np.abs(weight).sum(axis=1).ravel()
        for unit, norm in zip(
            flow.units_along(linear.y, linear.y_axis).tolist(), norms, strict=True
        ):
            if unit in place:
                scores[place[unit]] += norm
    return balanced(np.argsort(scores, kind="stable"), group.parts)


def random_order(group: Group, seed: int) -> np.ndarray:
    """Order units at random; the same for the same seed and name of the group."""
    rng = np.random.default_rng((seed, zlib.crc32(group.name.encode())))
    return balanced(rng.permutation(group.width), group.parts)


def balanced(order: Iterable[int], parts: tuple[int, ...] | None) -> np.ndarray:
    """Visit the parts of a group in rounds, so that they shrink alike."""
    order = np.array(list(order), np.int64)
    if parts is None:
        return order
    part = np.asarray(parts)[order]
    rounds = np.zeros(len(order), np.int64)
    for p in np.unique(part):
        rounds[part == p] = np.arange((part == p).sum())
    return order[np.lexsort((part, rounds))]
