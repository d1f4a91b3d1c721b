"""Units take over what others bring that will be removed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_reap.graph.edit.absorb import Absorbed, Read, absorb
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Flow, Linear


@dataclass(frozen=True)
class Merge:
    """Merge targets: which units take over from those that are removed."""

    # By removed unit: a unit that stays, and how much more of it is read for what was read of the
    # other
    targets: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    # Units that become the mean of themselves and of those that they take over from
    averaged: frozenset[int] = frozenset()


NOTHING = Merge()
"""Nobody takes over anything."""


def merge_units(model: Model, flow: Flow, merge: Merge) -> None:
    """Change weights, in place, before the units that others take over from are removed.

    Where a layer doesn't read both units alike, nothing is taken over.
    """
    if not merge.targets:
        return
    readers = [linear for linear in flow.linears if not linear.depthwise]
    if merge.averaged:
        _average(model, flow, readers, merge)
    absorb(model, [each for linear in readers for each in _taken_over(model, flow, linear, merge)])


def _taken_over(model: Model, flow: Flow, linear: Linear, merge: Merge) -> Iterator[Absorbed]:
    units = flow.units_along(linear.x, linear.x_axis)
    places = _places(units)
    weight = model.constants()[linear.weight].values
    outputs = len(flow.units_along(linear.y, linear.y_axis))
    per_part = len(units) // linear.group
    read = Read(linear, weight, np.ones(outputs, bool), per_part)
    for unit, (target, share) in merge.targets.items():
        for removed, stays in _pairs(places, unit, target):
            if removed // per_part == stays // per_part:
                yield Absorbed(read, removed, (stays, share), 0.0)


def _average(model: Model, flow: Flow, readers: Sequence[Linear], merge: Merge) -> None:
    """Average what makes the units, and what acts on each of them on its way."""
    clusters: dict[int, list[int]] = {}
    for unit, (target, _) in merge.targets.items():
        clusters.setdefault(target, [target]).append(unit)
    clusters = {target: units for target, units in clusters.items() if target in merge.averaged}
    read = {(linear.weight, linear.weight_in) for linear in readers}
    filters = {(linear.weight, linear.weight_out) for linear in flow.linears}
    constants = model.constants()
    done = set()
    for binding in flow.bindings:
        use = (binding.constant, binding.constant_axis)
        whole = binding.blocks == 1 and flow.axes.get(binding.tensor) == binding.tensor_axis
        if use in read or use in done or not whole:
            continue
        done.add(use)
        constant = constants[binding.constant]
        values = np.moveaxis(constant.values.astype(np.float64), binding.constant_axis, 0)
        new = values.copy()
        places = _places(flow.units_along(binding.tensor, binding.tensor_axis))
        for target, units in clusters.items():
            own = places.get(target, [])
            members = [places.get(u, []) for u in units]
            members = [each for each in members if len(each) == len(own)]
            for at, rows in zip(own, zip(*members, strict=True), strict=True):
                new[at] = _mean(values[list(rows)], keeps_norm=use in filters)
        constant.values = np.moveaxis(new, 0, binding.constant_axis).astype(constant.dtype)


def _mean(rows: np.ndarray, *, keeps_norm: bool) -> np.ndarray:
    """Average rows, (n, ...); with the root mean square of their norms where that is to be kept."""
    mean = rows.mean(axis=0)
    norm = np.linalg.norm(mean)
    if not keeps_norm or norm == 0:
        return np.asarray(mean)
    return np.asarray(mean * (np.linalg.norm(rows) / np.sqrt(len(rows)) / norm))


def _places(units: np.ndarray) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for place, unit in enumerate(units.tolist()):
        places.setdefault(unit, []).append(place)
    return places


def _pairs(places: Mapping[int, list[int]], unit: int, target: int) -> Iterator[tuple[int, int]]:
    """Pair the places of two units, if both have equally many."""
    removed, stays = places.get(unit, []), places.get(target, [])
    alike = len(removed) == len(stays)
    return zip(removed, stays, strict=True) if alike else zip((), (), strict=True)
