"""Sessions that run some batches at a time, side by side."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import run, session

Feed = Mapping[str, np.ndarray]
Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 2  # batches: most of a backward pass keeps one core busy


class SideBySide:
    """Runs on batches at a time; on a device, one after the other.

    Parameters
    ----------
    providers : sequence of str
        Execution providers.
    most : int
        Batches at a time, on the CPU.
    """

    def __init__(self, providers: Sequence[str], most: int = AT_ONCE) -> None:
        self._providers = providers
        self._count = min(most, AT_ONCE) if providers[0] == "CPUExecutionProvider" else 1
        self._pool = ThreadPoolExecutor(self._count)

    def runner(
        self, model: LightModel, outputs: Sequence[str], *, weights_fed: bool = True
    ) -> Callable[[Feed], dict[str, np.ndarray]]:
        """Make a session that computes outputs; of a feed it takes what it knows.

        Parameters
        ----------
        weights_fed : bool
            Whether most weights are inputs of the model.
        """
        active = session(model, self._providers, at_once=self._count, blocked=not weights_fed)
        taken = [value.name for value in active.get_inputs()]
        return lambda feed: run(active, outputs, {name: feed[name] for name in taken})

    def over(self, compute: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Compute results in the order of items, of which only some are held."""
        left = iter(items)
        while now := list(islice(left, self._count)):
            yield from self._pool.map(compute, now)

    def for_all(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Do work on all items, some at a time."""
        for _ in self._pool.map(work, items):
            pass
