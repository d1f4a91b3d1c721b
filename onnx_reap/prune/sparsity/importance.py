"""Sorting channels by importance, so that unimportant ones share tiles (TileTrans).

Let t be the threshold on what a tile holds, below which it goes. A tile with the sum s is worth
max(s - t, 0), and an order is taken where all tiles together are worth more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TileSide:
    """How one layer divides a group's channels into blocks that share tiles.

    Attributes
    ----------
    sums : (P, K) float32 array
        Scores by position along the layer's axis, summed along the tile's other side.
    block : (P,) int array
        That each position is in.
    at : (n,) int array
        Positions of the group's places.
    limit : (P, K) float32 array
        Threshold of the block's sums.
    """

    sums: npt.NDArray[np.float32]
    block: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]
    limit: npt.NDArray[np.float32]

    def worth(self, perm: npt.NDArray[np.int64]) -> float:
        """Return what all blocks are worth with the group's channels in another order."""
        now = self.sums.copy()
        now[self.at] = self.sums[self.at[perm]]
        blocks, first = np.unique(self.block[self.at], return_index=True)
        held = np.zeros((self.block.max() + 1, now.shape[1]), np.float32)
        np.add.at(held, self.block, now)
        return float(np.maximum(held[blocks] - self.limit[self.at][first], 0).sum())


def sort_by_importance(
    sides: Sequence[TileSide], parts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return which of n channels goes to each place, (n,).

    Parameters
    ----------
    parts : (n,) int array
        Channels stay within their part.
    """
    given = np.arange(len(parts))
    if not sides:
        return given
    total = sum(side.sums[side.at].sum(axis=1) for side in sides)
    perm = given.copy()
    for part in np.unique(parts):
        own = np.flatnonzero(parts == part)
        perm[own] = own[np.argsort(-total[own], kind="stable")]
    before, after = (sum(side.worth(order) for side in sides) for order in (given, perm))
    return perm if after > before else given
