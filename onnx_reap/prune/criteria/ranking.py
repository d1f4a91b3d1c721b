"""What a criterion says of a group: who goes first, and who takes over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Heir(NamedTuple):
    """The unit that takes over what another one brings, and how much more its readers get of it."""

    unit: int
    share: float


@dataclass(frozen=True)
class Ranking:
    """Units in the order in which they go.

    Attributes
    ----------
    order : list of int
    heirs : mapping of int to Heir
        Of units that go, as long as their heirs stay; an heir that goes has an heir of its own, or
        takes all with it.
    averaged : bool
        Whether a unit that stays becomes the mean of all that it takes over.
    """

    order: list[int]
    heirs: Mapping[int, Heir] = field(default_factory=dict)
    averaged: bool = False

    def inherited(self, gone: int) -> dict[int, Heir]:
        """Return the heirs that stay when the first `gone` units have gone."""
        left = set(self.order[gone:])
        found = {}
        for unit in self.order[:gone]:
            heir = self.heirs.get(unit)
            while heir is not None and heir.unit not in left:
                behind = self.heirs.get(heir.unit)
                heir = None if behind is None else Heir(behind.unit, heir.share * behind.share)
            if heir is not None:
                found[unit] = heir
        return found
