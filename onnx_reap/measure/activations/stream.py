"""Streams through the graph: activations at a frontier that moves from the input to the output.

What later layers need of earlier ones is kept at the frontier, batch by batch, on disk once it
grows past a budget, so that a run starts there instead of at the model's input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.ahead import one_ahead
from onnx_reap.onnxio.dtypes import is_text
from onnx_reap.onnxio.session import run, session

MEMORY = 512 << 20  # bytes of activations kept in memory, by stream


@dataclass(frozen=True)
class Move:
    """A new frontier: tensors to keep, and their bytes over all samples."""

    tensors: Sequence[str]
    size: int


class Store:
    """Activations by batch, in memory or in files that are mapped when they are used."""

    def __init__(self, *, on_disk: bool) -> None:
        # Not every system removes files that are still mapped.
        self._folder = (
            tempfile.TemporaryDirectory(prefix="onnx-reap-", ignore_cleanup_errors=True)
            if on_disk
            else None
        )
        self._batches: list[dict[str, np.ndarray | Path]] = []

    @property
    def on_disk(self) -> bool:
        """Whether arrays lie in files."""
        return self._folder is not None

    def append(self, batch: Mapping[str, np.ndarray]) -> None:
        """Keep one more batch."""
        if self._folder is None:
            self._batches.append({**batch})
            return
        folder = Path(self._folder.name) / str(len(self._batches))
        try:
            folder.mkdir()
            # Names of tensors may hold slashes, so files have numbers.
            written = [_written(folder / f"{i}.npy", x) for i, x in enumerate(batch.values())]
        except OSError as error:
            raise ReapError(
                "activations can't be kept on disk",
                got=f"{folder}: {error.strerror or error}",
                hint="set TMPDIR to a folder with more space, or use fewer --samples",
            ) from error
        self._batches.append(dict(zip(batch, written, strict=True)))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(np.load(each, mmap_mode="r")) if isinstance(each, Path) else each
            for name, each in self._batches[index].items()
        }

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return map(self.__getitem__, range(len(self)))

    def close(self) -> None:
        """Free what is kept."""
        self._batches.clear()
        if self._folder is not None:
            self._folder.cleanup()


def _written(path: Path, array: np.ndarray) -> np.ndarray | Path:
    """Write an array to a file, unless none can be mapped from there: of text, or empty."""
    if is_text(array.dtype) or not array.size:
        return array
    np.save(path, array)
    return path


class ActivationStream:
    """Runs of one model from a movable frontier.

    Parameters
    ----------
    parts : sequence of Calibration
        Samples; no batch holds some of two parts.
    """

    def __init__(
        self, parts: Sequence[Calibration], batch: int, pad: bool, providers: Sequence[str]
    ) -> None:
        self._parts = parts
        self._batch, self._pad = batch, pad
        self._providers = providers
        self._store: Store | None = None
        self.seconds = 0.0  # Spent on advancing so far

    def __enter__(self) -> ActivationStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, model: Model, outputs: Sequence[str], move: Move | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Compute tensors from the frontier on, batch by batch, and move the frontier meanwhile.

        Parameters
        ----------
        move : Move, optional
            Once all batches are computed, runs start there.
        """
        return one_ahead(self._run(model, outputs, move))

    def _run(
        self, model: Model, outputs: Sequence[str], move: Move | None
    ) -> Iterator[dict[str, np.ndarray]]:
        store = Store(on_disk=move.size > MEMORY) if move else None
        names = [*outputs, *(move.tensors if move else ())]
        compute = None
        for held in self.held():
            compute = compute or self._part(model, held, names)
            result = {name: held[name] for name in names if name in held} | compute(held)
            if store is not None and move is not None:
                store.append({name: result[name] for name in move.tensors})
            yield result
        if store is not None:
            self.close()
            self._store = store

    def advance(self, model: Model, move: Move) -> None:
        """Move the frontier."""
        begin = perf_counter()
        for _ in self._run(model, (), move):
            pass
        self.seconds += perf_counter() - begin

    def close(self) -> None:
        """Free what is kept at the frontier."""
        if self._store is not None:
            self._store.close()

    def _part(
        self, model: Model, held: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        """Make the function that computes tensors from what is held."""
        wanted = list(dict.fromkeys(name for name in names if name not in held))
        if not wanted:
            return lambda held: {}
        part = model.part({name: array.dtype for name, array in held.items()}, wanted)
        active = session(part, self._providers)
        fed = [i.name for i in active.get_inputs()]  # initializers may be listed, but aren't fed
        return lambda held: run(active, wanted, {name: held[name] for name in fed})

    @property
    def store(self) -> Store:
        """What is held at the frontier, once it was moved."""
        assert self._store is not None
        return self._store

    def held(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield what is held at the frontier, batch by batch."""
        if self._store is not None:
            return iter(self._store)
        return chain.from_iterable(p.batches(self._batch, pad=self._pad) for p in self._parts)
