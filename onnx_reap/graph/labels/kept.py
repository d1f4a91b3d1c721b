"""Which entries of every tensor stay when units go."""

from collections.abc import Iterable, Mapping

import numpy as np

from onnx_reap.graph.labels.records import Flow

Kept = Mapping[str, tuple[int, np.ndarray]]
"""Axis and positions that stay, by tensor that loses something."""


def kept_positions(flow: Flow, removed: Iterable[int]) -> dict[str, tuple[int, np.ndarray]]:
    """Return, for every tensor that loses something, its axis and the positions that stay."""
    units = np.array(sorted(removed), np.int64)
    kept = {}
    for tensor, axis in flow.axes.items():
        stays = ~np.isin(flow.units_along(tensor, axis), units)
        if not stays.all():
            kept[tensor] = (axis, np.flatnonzero(stays))
    return kept
