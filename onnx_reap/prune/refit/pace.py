"""How many passes over the samples blocks make, in the time that there is."""

import time

PASSES = (10, 7, 5, 3, 2, 1)
"""The first is enough. Few numbers, so that runs of one speed mostly agree."""


class Pace:
    """Divides a time among blocks.

    Parameters
    ----------
    asked : int, optional
        Passes that the user wants, whatever they take.
    seconds : float
        For all blocks.
    """

    def __init__(self, asked: int | None, seconds: float) -> None:
        self._asked, self._until = asked, time.perf_counter() + seconds
        self._made: list[int] = []

    def passes(self, share: float, seconds: float) -> int:
        """Return how many passes a block makes; 0 if there is no time for it.

        Parameters
        ----------
        share : float
            Of the arithmetic of this block and all later ones.
        seconds : float
            That a pass takes.
        """
        if self._asked is not None:
            return self._asked
        fitting = share * (self._until - time.perf_counter()) / max(seconds, 1e-9)
        made = next((passes for passes in PASSES if passes <= fitting), 0)
        self._made.append(made)
        return made

    def notes(self) -> list[str]:
        """Say what a longer time would be for."""
        least, enough = min(self._made, default=PASSES[0]), PASSES[0]
        if least == enough:
            return []
        short = sum(made < enough for made in self._made)
        return [
            f"time was short for the layers of {short} of {len(self._made)} blocks, refitted in "
            f"{least} passes or more of {enough}: a longer --time-limit, or --joint-refit "
            f"{enough}, may bring more"
        ]
