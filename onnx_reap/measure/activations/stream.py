"""Streams through the graph: activations at a frontier that moves from the input to the output.

What later layers need of earlier ones is kept at the frontier, batch by batch, on disk once it
grows past a budget, so that a run starts there instead of at the model's input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.model import Model
from onnx_reap.onnxio.dtypes import is_text
from onnx_reap.onnxio.session import run, session

MEMORY = 256 << 20  # bytes of activations kept in memory, by stream


@dataclass(frozen=True)
class Move:
    """A new frontier: tensors to keep, and their bytes over all samples."""

    tensors: Sequence[str]
    size: int


class Store:
    """Activations by batch, in memory or on disk."""

    def __init__(self, on_disk: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-reap-") if on_disk else None
        self._batches: list[dict[str, np.ndarray] | Path] = []

    def append(self, batch: dict[str, np.ndarray]) -> None:
        """Keep one more batch."""
        if self._folder is None:
            self._batches.append(batch)
            return
        path = Path(self._folder.name) / f"{len(self._batches)}.npz"
        try:
            # Names of tensors may hold slashes, so arrays are stored by number.
            # Texts are objects, which NumPy only writes as pickles.
            arrays = [x.astype(str) if is_text(x.dtype) else x for x in batch.values()]
            np.savez(path, np.array(list(batch)), *arrays)
        except OSError as error:
            raise ReapError(
                "activations can't be kept on disk",
                got=f"{path}: {error.strerror or error}",
                hint="set TMPDIR to a folder with more space, or use fewer --samples",
            ) from error
        self._batches.append(path)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch = self._batches[index]
        if isinstance(batch, dict):
            return batch
        with np.load(batch) as arrays:
            names = arrays["arr_0"].tolist()
            stored = {name: arrays[f"arr_{i + 1}"] for i, name in enumerate(names)}
        return {name: x.astype(object) if is_text(x.dtype) else x for name, x in stored.items()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return map(self.__getitem__, range(len(self)))

    def close(self) -> None:
        """Free what is kept."""
        self._batches.clear()
        if self._folder is not None:
            self._folder.cleanup()


class ActivationStream:
    """Runs of one model from a movable frontier."""

    def __init__(
        self, calibration: Calibration, batch: int, pad: bool, providers: Sequence[str]
    ) -> None:
        self._calibration = calibration
        self._batch, self._pad = batch, pad
        self._providers = providers
        self._store: Store | None = None

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
            Once all batches are through, runs start there.
        """
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
        for _ in self.run(model, (), move):
            pass

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
        return self._calibration.batches(self._batch, pad=self._pad)
