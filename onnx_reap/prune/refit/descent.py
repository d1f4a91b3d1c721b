"""What descents have in common: how many samples make a step, and how far they are followed."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]

SAMPLES_PER_STEP = 8
"""Many small steps bring more than few large ones."""

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the way; the validation split chooses. Points before the end do better where it overfits."""


def points(
    start: Arrays,
    end: Arrays,
    as_stored: Callable[[Arrays], Arrays],
    shares: Sequence[float] = SHARES,
) -> Iterator[Arrays]:
    """Yield the parameters at some points, as they would be stored, where all are finite."""
    for share in map(np.float32, shares):
        between = as_stored({name: x + share * (end[name] - x) for name, x in start.items()})
        if all(np.isfinite(x).all() for x in between.values()):
            yield between
