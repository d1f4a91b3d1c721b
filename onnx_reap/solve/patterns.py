"""Patterns of zeros, and the masks that lose the least score in them.

A layer's scores are an array (g, T, C, O): maps side by side, kernel positions, input channels of a
map, outputs of a map. As a matrix for kernels its rows are outputs, and its columns run through the
input channels of the first kernel position, then through those of the second. No tile reaches from
one kernel position, or map, into the next; the last ones of each may be smaller.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEAST_SHARE = 0.25  # of what stays on average: so much stays in every layer


@dataclass(frozen=True)
class Tiles:
    """Tiles of `rows` outputs times `columns` input channels are kept or zeroed whole."""

    rows: int
    columns: int
    sparsity: float  # Share of the weights of all layers together that is zeroed

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns} tiles"

    def refuses(self, channels: int) -> str | None:
        """Return why a layer of that many input channels can't have the pattern, if so."""
        return None

    def masks(self, scores: Mapping[str, Scores]) -> dict[str, Mask]:
        """Keep the tiles of the largest mean score, over all layers [1]_.

        Every layer keeps a part of its tiles, lest a cut thread silence what is behind it.

        Parameters
        ----------
        scores : mapping of str to (g, T, C, O) array
            Comparable from layer to layer.

        Returns
        -------
        dict of str to (g, T, C, O) bool array
            True where weights stay.
        """
        if not scores:
            return {}
        means, sizes = {}, {}
        for name, score in scores.items():
            size = self.pooled(np.ones(score.shape))
            mean = self.pooled(score) / size
            kept = max(1, round(mean.size * LEAST_SHARE * (1 - self.sparsity)))
            mean.ravel()[np.argsort(mean, axis=None, kind="stable")[-kept:]] = np.inf
            means[name], sizes[name] = mean, size
        every = np.concatenate([mean.ravel() for mean in means.values()])
        size = np.concatenate([each.ravel() for each in sizes.values()])
        order = np.argsort(every, kind="stable")
        zeroed = np.cumsum(size[order])
        gone = order[: np.searchsorted(zeroed, self.sparsity * size.sum(), "right")]
        stays = np.isinf(every)
        stays[np.setdiff1d(np.arange(len(every)), gone)] = True
        parts = np.split(stays, np.cumsum([mean.size for mean in means.values()])[:-1])
        return {
            name: self._spread(part.reshape(means[name].shape), scores[name].shape)
            for (name, part) in zip(means, parts, strict=True)
        }

    def threshold(self, scores: Mapping[str, Scores]) -> float:
        """Mean score at which tiles go."""
        tiles = [(self.pooled(s), self.pooled(np.ones(s.shape))) for s in scores.values()]
        mean = np.concatenate([(total / size).ravel() for total, size in tiles])
        size = np.concatenate([each.ravel() for _, each in tiles])
        order = np.argsort(mean, kind="stable")
        at = np.searchsorted(np.cumsum(size[order]), self.sparsity * size.sum())
        return float(mean[order[min(at, len(order) - 1)]])

    def pooled(self, score: Scores) -> Scores:
        """Sum scores by tile: (g, T, tiles of C, tiles of O)."""
        return block_sums(block_sums(score, 2, self.columns), 3, self.rows)

    def _spread(self, stays: Mask, shape: tuple[int, ...]) -> Mask:
        spread = np.repeat(np.repeat(stays, self.columns, axis=2), self.rows, axis=3)
        return spread[:, :, : shape[2], : shape[3]]


@dataclass(frozen=True)
class TwoOfFour:
    """For every output and kernel position, 2 of every 4 input channels in a row stay.

    TensorRT takes convolutions and dense layers with such weights for its sparse kernels.
    """

    def __str__(self) -> str:
        return "2:4"

    def refuses(self, channels: int) -> str | None:
        """Return why a layer of that many input channels can't have the pattern, if so."""
        return None if channels % 4 == 0 else f"{channels} input channels, no multiple of 4"

    def masks(self, scores: Mapping[str, Scores]) -> dict[str, Mask]:
        """Keep the two largest scores of every four; see `Tiles.masks`."""
        return {name: two_of_four(score) for name, score in scores.items()}


Pattern = Tiles | TwoOfFour


def two_of_four(score: Scores) -> Mask:
    """Mark the two largest of every four along axis 2 of (g, T, C, O) scores."""
    g, taps, channels, outputs = score.shape
    fours = score.reshape(g, taps, channels // 4, 4, outputs)
    rank = np.argsort(np.argsort(-fours, axis=3, kind="stable"), axis=3)
    return (rank < 2).reshape(score.shape)


def block_sums(x: Scores, axis: int, length: int) -> Scores:
    """Sum runs of `length` along an axis; the last one may be shorter."""
    return np.add.reduceat(x, np.arange(0, x.shape[axis], length), axis=axis)


def read_tile(text: str) -> tuple[int, int] | None:
    """Read `8x1` as rows and columns; None if it says something else."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    return None if found is None else (int(found[1]), int(found[2]))


def share_lost(scores: Mapping[str, Scores], masks: Mapping[str, Mask]) -> float:
    """Return the share of all scores that masks zero."""
    total = sum(float(score.sum()) for score in scores.values())
    kept = sum(float(scores[name][mask].sum()) for name, mask in masks.items())
    return 1 - kept / total if total > 0 else 0.0
