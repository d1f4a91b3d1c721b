"""Balances: channels that fall into parts which must stay equally long."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.labels import LabelArray


@dataclass(frozen=True)
class Balance:
    """Classes of units of which equally many must be kept.

    Attributes
    ----------
    classes : tuple of tuple of int
        Units by class, all of one size.
    """

    classes: tuple[tuple[int, ...], ...]

    @property
    def units(self) -> tuple[int, ...]:
        """All units, class by class."""
        return tuple(unit for members in self.classes for unit in members)


def part_of_units(units: LabelArray, parts: int) -> dict[int, int] | None:
    """Tell in which part of an axis each unit lies.

    Parameters
    ----------
    units : (C,) LabelArray
        Units along the axis, C divisible by `parts`.

    Returns
    -------
    dict or None
        Unit to class; units that lie in all parts alike are left out, since they need no balance.
        None if removing equally many units from every class would not keep the parts equal.
    """
    present, inverse = np.unique(units, return_inverse=True)
    counts = np.zeros((len(present), parts), int)
    np.add.at(counts, (inverse, np.arange(len(units)) // (len(units) // parts)), 1)
    counts, present = counts[present != 0], present[present != 0]
    uneven = (counts != counts[:, :1]).any(axis=1)
    if not uneven.any():
        return {}
    # Minus: a unit of the first part comes first.
    patterns, which = np.unique(-counts[uneven], axis=0, return_inverse=True)
    per_pattern, per_part = np.bincount(which.ravel()), patterns.sum(axis=0)
    if (per_pattern != per_pattern[0]).any() or (per_part != per_part[0]).any():
        return None
    return dict(zip(present[uneven].tolist(), which.ravel().tolist(), strict=True))


def joint_parts(ties: Sequence[tuple[LabelArray, int]]) -> tuple[list[Balance], list[int]]:
    """Combine the balances that several nodes ask of the same units.

    Parameters
    ----------
    ties : list of (units along an axis, parts)

    Returns
    -------
    balances : list of Balance
        Disjoint. Keeping equally many units of each class of a balance serves all nodes.
    stuck : list of int
        Units for which no such classes exist.
    """
    asked: dict[int, dict[int, int]] = {}
    for number, (units, count) in enumerate(ties):
        for unit, part in (part_of_units(units, count) or {}).items():
            asked.setdefault(unit, {})[number] = part
    together: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for unit in sorted(asked):
        numbers, parts = tuple(asked[unit]), tuple(asked[unit].values())
        together.setdefault(numbers, {}).setdefault(parts, []).append(unit)
    balances, stuck = [], []
    for numbers, classes in together.items():
        alone = all(other == numbers or not {*other} & {*numbers} for other in together)
        if alone and _balanced(classes):
            members = (tuple(classes[parts]) for parts in sorted(classes))
            balances.append(Balance(tuple(members)))
        else:
            stuck += [unit for units in classes.values() for unit in units]
    return balances, stuck


def _balanced(classes: Mapping[tuple[int, ...], Sequence[int]]) -> bool:
    """Whether classes are equally large and every node's parts hold equally many of them."""
    sizes = {len(units) for units in classes.values()}
    per_node = (np.unique(parts, return_counts=True)[1] for parts in zip(*classes, strict=True))
    return len(sizes) == 1 and all((counts == counts[0]).all() for counts in per_node)


def anchors(balance: Balance, kinds: Mapping[int, Hashable]) -> list[int]:
    """Choose units that must stay so that keeping one unit per class leaves no tensor empty.

    Parameters
    ----------
    kinds : mapping of int to hashable
        For every unit the tensors that hold it and could become empty.

    Returns
    -------
    list of int
        Equally many units of each class; none if every kind has a class to itself.
    """
    present = [{kinds[unit] for unit in members} for members in balance.classes]
    safe = {next(iter(kind)) for kind in present if len(kind) == 1}
    wanted = []
    for members in balance.classes:
        firsts = {kinds[unit]: unit for unit in reversed(members)}
        wanted.append([unit for kind, unit in firsts.items() if kind not in safe])
    count = max(len(units) for units in wanted)
    return [
        unit
        for units, members in zip(wanted, balance.classes, strict=True)
        for unit in [*units, *(m for m in members if m not in units)][:count]
    ]
