"""What a criterion says of a group: who goes first, and who takes over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class MergeTarget(NamedTuple):
    """The unit that takes over what another one brings, and how much more its readers get of it."""

    unit: int
    share: float


@dataclass(frozen=True)
class Ranking:
    """Units in the order in which they go."""

    order: list[int]
    # By unit that goes, the unit that takes over. If that one goes too, its own target takes over,
    # or nobody does.
    targets: Mapping[int, MergeTarget] = field(default_factory=dict)
    averaged: bool = False  # Whether a unit that stays becomes the mean of all that it takes over

    def merged(self, gone: int) -> dict[int, MergeTarget]:
        """Return the targets that stay when the first `gone` units have gone."""
        left = set(self.order[gone:])
        found = {}
        for unit in self.order[:gone]:
            target = self.targets.get(unit)
            while target is not None and target.unit not in left:
                behind, share = self.targets.get(target.unit), target.share
                target = behind and MergeTarget(behind.unit, share * behind.share)
            if target is not None:
                found[unit] = target
        return found
