"""How many passes over the samples blocks make, in the time that there is."""

import time
from collections.abc import Callable

PASSES = (10, 7, 5, 3, 2, 1, 0.5)
"""The first is enough. Few numbers, so that runs of one speed mostly agree."""

SHARE = 0.6
"""Of the time that is left, for all blocks; tuning the network takes the rest."""

FEW, SHARE_OF_FEW = 3, 0.9
"""The first passes bring more than tuning in the same time, so they may take a larger share."""

BLOCKS_TRIED = 3
"""Blocks without time for half a pass, after which the others won't have it either."""


class Pace:
    """Divides a time among blocks.

    Parameters
    ----------
    asked : int, optional
        Passes that the user wants, whatever they take.
    seconds : float
        That are left for all repairs by gradient.
    """

    def __init__(self, asked: int | None, seconds: float) -> None:
        self._asked, self._begin, self._seconds = asked, time.perf_counter(), seconds
        self._made: list[float] = []

    def passes(self, share: float, seconds: Callable[[], float], walk: float = 0.0) -> float:
        """Return how many passes a block makes; 0 if there is no time for it.

        Parameters
        ----------
        share : float
            Of the arithmetic of this block and all later ones.
        seconds : callable
            Times a pass.
        walk : float
            Seconds that it takes to get from this block to the last one, without any passes.
        """
        if self._asked is not None:
            return self._asked
        each = max(seconds(), 1e-9)
        gone = time.perf_counter() - self._begin + walk
        most, few = (share * (part * self._seconds - gone) / each for part in (SHARE, SHARE_OF_FEW))
        fitting = max(most, min(few, FEW))
        made = next((passes for passes in PASSES if passes <= fitting), 0)
        self._made.append(made)
        return made

    @property
    def is_hopeless(self) -> bool:
        """Whether the time is better spent on something else than on further blocks."""
        return len(self._made) >= BLOCKS_TRIED and not any(self._made)

    def notes(self) -> list[str]:
        """Say what a longer time would be for."""
        enough = PASSES[0]
        short = [made for made in self._made if made < enough]
        if not short:
            return []
        more = f"a longer --time-limit, or --joint-refit {enough}, may bring more"
        if not any(short) and len(short) == len(self._made):
            return [f"no layers were refitted together, as there was no time for it: {more}"]
        made = " to ".join(map(str, sorted({min(short), max(short)})))
        return [
            f"time was short: the layers of {len(short)} of {len(self._made)} blocks were refitted "
            f"together in {made} passes instead of {enough}: {more}"
        ]
