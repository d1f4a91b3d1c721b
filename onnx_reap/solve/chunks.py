"""Things in lots that fit into memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_chunks(things: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Divide things, in order, so that no lot exceeds a size unless a single thing does."""
    lot: list[T] = []
    held = 0
    for thing in things:
        more = size(thing)
        if lot and held + more > most:
            yield lot
            lot, held = [], 0
        lot.append(thing)
        held += more
    if lot:
        yield lot
