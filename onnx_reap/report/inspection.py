"""What an inspection tells of a model; `Inspection.to_dict` is the JSON file's content."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.report.records import plain

SCHEMA = 1
"""Version of the JSON file; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Sizes:
    """Multiply-accumulates per sample and floating-point parameters."""

    macs: int
    params: int


@dataclass(frozen=True)
class InspectedGroup:
    """Channels that could be pruned together."""

    name: str
    width: int
    unit: int  # Channels that go as one, in the layer where these are fewest
    # Those that the group may take, ascending, its own last; 0 first where it may vanish
    widths: tuple[int, ...]
    # Nodes that make and that mix the channels
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    # Nodes where several tensors with these channels meet, such as the sums of a residual stream
    tied_at: tuple[str, ...]
    share: Sizes  # Of the layers that make the channels, so much as makes these
    saving: Sizes  # What goes at the narrowest width, if all other groups stay as they are


@dataclass(frozen=True)
class InspectedBranch:
    """A residual branch that vanishes with all channels of a group."""

    group: str
    along: tuple[str, ...]  # Other groups that go with it
    joins: tuple[str, ...]  # Additions where the branch ends
    saving: Sizes  # What goes if all other groups stay as they are


@dataclass(frozen=True)
class FrozenReason:
    """All channels that must stay for one reason."""

    reason: str
    normal: bool  # Whether this is so in every model, and nothing to look into
    channels: int
    share: Sizes  # Of the layers that make or pass the channels, so much as makes these
    nodes: tuple[FrozenChannels, ...]


@dataclass(frozen=True)
class Inspection:
    """What could be pruned of a model, what could not, and why.

    Attributes
    ----------
    settings : mapping of str to object
        Those that differ from the defaults.
    total, least : Sizes
        Of the model as it is, and with all groups at their narrowest widths.
    groups : tuple of InspectedGroup
    branches : tuple of InspectedBranch
    frozen : tuple of FrozenReason
        Largest share of the multiply-accumulates first.
    others : Sizes
        What no layer with a constant weight has, and layers whose channels no node makes. With the
        shares of groups and reasons it adds up to `total`.
    nothing : str, optional
        Why nothing can be pruned, where that is so.
    """

    version: str
    settings: Mapping[str, Any]
    total: Sizes
    least: Sizes
    groups: tuple[InspectedGroup, ...]
    branches: tuple[InspectedBranch, ...]
    frozen: tuple[FrozenReason, ...]
    others: Sizes
    nothing: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as JSON values."""
        return {"schema": SCHEMA, **plain(asdict(self))}
