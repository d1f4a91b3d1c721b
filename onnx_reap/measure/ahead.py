"""Work that goes on while its results are used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Compute the next of some items in another thread while this one is used.

    onnxruntime and NumPy mostly compute without holding the interpreter, so both go on.
    """
    rest = iter(items)

    def following() -> list[Item]:
        return list(islice(rest, 1))

    with ThreadPoolExecutor(1) as other:
        coming = other.submit(following)
        try:
            while found := coming.result():
                coming = other.submit(following)
                yield found[0]
        finally:
            del coming  # its exception would hold this frame, and this frame what was computed
