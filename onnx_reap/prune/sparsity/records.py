"""What a run tells of zeros in a pattern."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TiledLayer:
    """A layer with zeros in a pattern."""

    node: str
    zeros: float  # Share of its weights
    score_lost: float  # Share of its scores
    # Relative error before and after its repair, on what it receives in the sparse model
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True)
class DenseLayer:
    """A layer that stayed dense, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Tiling:
    """Weights that were zeroed in a pattern."""

    pattern: str
    zeros: float  # Share of the weights of the layers with zeros
    permuted: int  # Units of channels that changed places
    # Largest difference of an output by that, relative to the output's largest entry
    difference: float | None
    # Share of the scores of all weights that the masks take, and those with all channels in their
    # places would
    score_lost: float
    score_lost_unpermuted: float
    layers: tuple[TiledLayer, ...]
    dense: tuple[DenseLayer, ...]
    unmoved: Mapping[str, str]  # By group, why its channels did not change places
