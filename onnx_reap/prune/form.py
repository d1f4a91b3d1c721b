"""What is pruned: a form of the given model, and a choice of the channels that go."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.merge import NOTHING, Merge
from onnx_reap.graph.groups import translate
from onnx_reap.solve.cost import Cost


@dataclass(frozen=True)
class Choice:
    """What is removed."""

    widths: np.ndarray  # (groups,) int: units that stay
    removed: tuple[int, ...]  # Units
    # By group, error of its removal relative to the variance of its consumers' outputs
    errors: tuple[float | None, ...]
    notes: tuple[str, ...] = ()  # Warnings
    merge: Merge = NOTHING  # Units that are merged into others first


@dataclass(frozen=True)
class Factorised:
    """A layer that became two, or a group of channels in another basis."""

    node: str  # The layer, now the second of the two, or the group
    # "channel", "spatial" or "stream": its whole kernel and 1 x 1, or k x 1 and 1 x k; or a group's
    # basis
    scheme: str
    # Channels between the two, or coordinates, and how many it takes to be exact
    rank: int
    full: int
    # Local error, as a fraction of the variance of the outputs of the layers that read these
    error: float | None


@dataclass(frozen=True)
class Form:
    """The model that is pruned, as it was given.

    An extension may write the same function in another way, and have that pruned: a subclass, which
    tells what a choice of channels in its form makes of the given model.
    """

    # Of the model in this form. Its costs are those of the models that choices lead to.
    analysis: Analysis
    # By group, the widths that it may take, ascending, where settings don't tell
    widths: Mapping[int, np.ndarray] = field(default_factory=dict)
    # Groups that are coordinates in a basis, in descending order of their weight
    coordinates: frozenset[int] = frozenset()
    # Parameters that a refit adds, where these are not those of the layers without a bias
    added_biases: Cost | None = None

    @property
    def original(self) -> Analysis:
        """Analysis of the model that was given."""
        return self.analysis

    def settled(self, choice: Choice) -> tuple[Analysis, Choice]:
        """Return the model to cut, and the choice in terms of its channels."""
        return self.analysis, choice

    def as_given(self, choice: Choice) -> Choice:
        """Return the choice in terms of the given model's channels."""
        return choice

    def factors(self, choice: Choice) -> list[Factorised]:
        """List what is written in fewer coordinates."""
        return []

    def notes(self, choice: Choice) -> list[str]:
        """Return warnings about the form."""
        return []


def choice_of(analysis: Analysis, removed: Sequence[int], notes: tuple[str, ...] = ()) -> Choice:
    """Make a choice of units whose errors nobody knows."""
    widths = widths_left(analysis, removed)
    return Choice(widths, tuple(removed), (None,) * len(widths), notes)


def widths_left(analysis: Analysis, removed: Collection[int]) -> np.ndarray:
    """Count the units that stay, (groups,) int array."""
    out = set(removed)
    return np.array([sum(u not in out for u in group.units) for group in analysis.groups])


def removed_in(removed: Collection[int], source: Analysis, target: Analysis) -> tuple[int, ...]:
    """Translate removed units from one form of a model to another, see `translate`."""
    return with_dependents(target, translate(removed, source.groups, target.groups))


def with_dependents(analysis: Analysis, removed: Iterable[int]) -> tuple[int, ...]:
    """Add the units of groups that vanish with others."""
    removed = tuple(removed)
    empty = np.flatnonzero(widths_left(analysis, removed) == 0).tolist()
    along = sorted(analysis.branches.vanishing_with(empty))
    dependent = [unit for index in along for unit in analysis.groups[index].units]
    return tuple(dict.fromkeys([*removed, *dependent]))
