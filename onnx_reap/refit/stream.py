"""Two streams through the graph: activations of the original and of the pruned model, side by side.

The walk moves a frontier through the graph. What later layers need of earlier ones is kept at the
frontier, batch by batch, on disk once it grows past a budget, so that a run starts there instead of
at the model's input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx

from ..data import Calibration
from ..runtime import extract, run, session

MEMORY = 512 << 20  # bytes of activations kept in memory, by stream


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
        # Names of tensors may hold slashes, so arrays are stored by number.
        np.savez(path, np.array(list(batch)), *batch.values())
        self._batches.append(path)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for batch in self._batches:
            if isinstance(batch, dict):
                yield batch
            else:
                with np.load(batch) as arrays:
                    names = arrays["arr_0"].tolist()
                    yield {name: arrays[f"arr_{i + 1}"] for i, name in enumerate(names)}

    def close(self) -> None:
        """Free what is kept."""
        self._batches.clear()
        if self._folder is not None:
            self._folder.cleanup()


class Stream:
    """Runs of one model from a movable frontier.

    Parameters
    ----------
    calibration : Calibration
    batch : int
        Samples per run.
    pad : bool
        Whether the last batch must be filled up.
    """

    def __init__(
        self, calibration: Calibration, batch: int, pad: bool, providers: Sequence[str]
    ) -> None:
        self._calibration = calibration
        self._batch, self._pad = batch, pad
        self._providers = providers
        self._store: Store | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._store is not None:
            self._store.close()

    def run(self, model: onnx.ModelProto, outputs: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Compute tensors from the frontier on, batch by batch."""
        active, have = None, {}
        for held in self._batches():
            if active is None:
                have = {name: array.dtype for name, array in held.items()}
                wanted = [name for name in outputs if name not in have]
                part = extract(model, have, wanted)
                active = session(part, self._providers) if wanted else None
                fed = {i.name for i in part.graph.input}
            result = {name: held[name] for name in outputs if name in held}
            if active is not None:
                feed = {name: array for name, array in held.items() if name in fed}
                result |= run(active, wanted, feed)
            yield result

    def advance(self, model: onnx.ModelProto, frontier: Sequence[str], size: int) -> None:
        """Move the frontier: from now on, runs start at these tensors (`size` bytes in all)."""
        store = Store(on_disk=size > MEMORY)
        for batch in self.run(model, frontier):
            store.append(batch)
        if self._store is not None:
            self._store.close()
        self._store = store

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        if self._store is not None:
            return iter(self._store)
        return self._calibration.batches(self._batch, pad=self._pad)

