"""Balances: channels that fall into parts which must stay equally long."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.labels.labels import FROZEN, LabelArray, collapse


@dataclass(frozen=True)
class Balance:
    """Classes of units of which equally many must be kept."""

    classes: tuple[tuple[int, ...], ...]  # Units by class, all of one size

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
    counts, present = _counts(units, parts)
    uneven = (counts != counts[:, :1]).any(axis=1)
    if not uneven.any():
        return {}
    # Minus: a unit of the first part comes first.
    patterns, which = np.unique(-counts[uneven], axis=0, return_inverse=True)
    per_pattern, per_part = np.bincount(which.ravel()), patterns.sum(axis=0)
    if (per_pattern != per_pattern[0]).any() or (per_part != per_part[0]).any():
        return None
    return dict(zip(present[uneven].tolist(), which.ravel().tolist(), strict=True))


def surplus(units: LabelArray, parts: int) -> LabelArray:
    """Return units that must stay for the others to be balanced, see `part_of_units`.

    Those that lie in several parts go first, then what some parts have more of than others.
    """
    counts, present = _counts(units, parts)
    uneven = (counts != counts[:, :1]).any(axis=1)
    inside = (counts > 0).sum(axis=1) == 1
    straddling: LabelArray = present[uneven & ~inside]
    if straddling.size:
        return straddling
    members = [present[uneven & (counts[:, part] > 0)] for part in range(parts)]
    fewest = min(len(units) for units in members)
    over: LabelArray = np.concatenate([units[fewest:] for units in members])
    return over if over.size else present[uneven]


def _counts(units: LabelArray, parts: int) -> tuple[npt.NDArray[np.int64], LabelArray]:
    """Count how often each unit lies in each part, (units, parts), frozen ones left out."""
    present, inverse = np.unique(units, return_inverse=True)
    counts = np.zeros((len(present), parts), np.int64)
    np.add.at(counts, (inverse, np.arange(len(units)) // (len(units) // parts)), 1)
    return counts[present != FROZEN], present[present != FROZEN]


def occurrences(tensors: Mapping[str, LabelArray]) -> dict[int, str]:
    """Tell, for every unit, which tensors hold it and how often.

    Units that are alike in this can be counted instead of named: whichever of them go, shapes and
    costs are the same, and as long as one of them stays no tensor loses all.
    """
    found: dict[int, list[str]] = {}
    for name, labels in tensors.items():
        units, counts = np.unique(collapse(labels), return_counts=True)
        for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
            if unit != FROZEN:
                found.setdefault(unit, []).append(f"{count} {name}")
    return {unit: "\0".join(where) for unit, where in found.items()}


def joint_parts(
    ties: Sequence[tuple[LabelArray, int]], kinds: Mapping[int, Hashable]
) -> tuple[list[Balance], list[int]]:
    """Combine the balances that several nodes ask of the same units.

    Parameters
    ----------
    ties : list of (units along an axis, parts)
    kinds : mapping of int to hashable
        From `occurrences`; the units of a class are of one kind.

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
    numbered = {kind: number for number, kind in enumerate(dict.fromkeys(kinds.values()))}
    for unit in sorted(asked):
        numbers, parts = tuple(asked[unit]), tuple(asked[unit].values())
        key = (*parts, numbered[kinds[unit]])
        together.setdefault(numbers, {}).setdefault(key, []).append(unit)
    balances, stuck = [], []
    for numbers, classes in together.items():
        alone = all(other == numbers or not {*other} & {*numbers} for other in together)
        if alone and _balanced(classes, len(numbers)):
            balances.append(Balance(tuple(tuple(classes[key]) for key in sorted(classes))))
        else:
            stuck += [unit for units in classes.values() for unit in units]
    return balances, stuck


def stays_balanced(sets: Sequence[Sequence[int]], ties: Sequence[tuple[LabelArray, int]]) -> bool:
    """Whether all balances still have a free choice once each set of units is one unit."""
    new = {unit: units[0] for units in sets for unit in units}
    united = (
        (np.array([new.get(unit, unit) for unit in units.tolist()]), parts) for units, parts in ties
    )
    return all(part_of_units(units, parts) is not None for units, parts in united)


def _balanced(classes: Mapping[tuple[int, ...], Sequence[int]], nodes: int) -> bool:
    """Whether classes are equally large and every node's parts hold equally many of them."""
    sizes = {len(units) for units in classes.values()}
    part_columns = list(zip(*classes, strict=True))[:nodes]
    per_node = (np.unique(parts, return_counts=True)[1] for parts in part_columns)
    return len(sizes) == 1 and all((counts == counts[0]).all() for counts in per_node)
