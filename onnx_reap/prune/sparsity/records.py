"""What a run tells of zeros in a pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MaskLoss:
    """What masks take, before any repair.

    Attributes
    ----------
    score : float
        Share of the scores of all weights.
    error : float, optional
        Squared error of a layer's outputs relative to their variance, mean over the layers; None
        without data.
    """

    score: float
    error: float | None


@dataclass(frozen=True)
class TiledLayer:
    """A layer with zeros in a pattern.

    Attributes
    ----------
    zeros : float
        Share of its weights.
    score_lost : float
        Share of its scores.
    error_masked : float, optional
        Relative error of its outputs by the mask alone, on the original's inputs.
    error_before, error_after : float, optional
        Relative error before and after its repair, on what it receives in the sparse model.
    """

    node: str
    zeros: float
    score_lost: float
    error_masked: float | None
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True)
class DenseLayer:
    """A layer that stayed dense, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Tiling:
    """Weights that were zeroed in a pattern.

    Attributes
    ----------
    pattern : str
    zeros : float
        Share of the weights of the layers with zeros.
    permuted : int
        Units of channels that changed places.
    difference : float, optional
        Largest difference of an output by that, relative to the output's largest entry.
    loss, loss_unpermuted : MaskLoss
        Of the masks that were taken, and of those with all channels in their places.
    layers : tuple of TiledLayer
    dense : tuple of DenseLayer
    unmoved : mapping of str to str
        By group, why its channels did not change places.
    """

    pattern: str
    zeros: float
    permuted: int
    difference: float | None
    loss: MaskLoss
    loss_unpermuted: MaskLoss
    layers: tuple[TiledLayer, ...]
    dense: tuple[DenseLayer, ...]
    unmoved: Mapping[str, str]
