"""Where the streams can start: sets of tensors from which all that follows can be computed."""

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.ir.recurrent import projection
from onnx_reap.measure.activations.stream import Move

WORTH = 1.25  # a later start may take this much more memory than the smallest one on the way
GROWTH = 2  # a start may take this much more than the present one
SMALL = 128 << 20  # bytes that a start may take in any case
PATIENCE = 4  # moves that are forgone for memory before one is made anyway


class Frontier:
    """Chooses when to move, and where to: late, and where few activations are alive."""

    def __init__(self, model: Model, probe: Probe, samples: int) -> None:
        self._probe, self._samples = probe, samples
        self._nodes = model.nodes
        self._place = {t.name: i for i, n in enumerate(self._nodes) for t in n.outputs if t.name}
        self._place |= {projection(model.keys[id(n)]): i for i, n in enumerate(self._nodes)}
        self._last_use = _last_uses(self._nodes, model.graph.outputs)
        self._fed = {t.name for t in model.graph.inputs}
        self._at = -1  # the samples themselves, which have to be read and prepared
        self._held = np.inf
        self._waited = 0

    def move(self, ahead: Sequence[str]) -> Move | None:
        """Return where to start from now on; None where staying is better.

        Makers of the tensors `ahead` may still change: all nodes in front of the first are final.
        """
        if not ahead:
            return None
        limit = self.place(ahead)
        spots = range(self._at + 1, limit + 1)
        sizes = [self._size(self._alive(spot)) for spot in spots]
        least = min(sizes, default=np.inf)
        self._waited += 1
        if not np.isfinite(least):
            return None
        best = max(spot for spot, size in zip(spots, sizes, strict=True) if size <= WORTH * least)
        size = sizes[best - spots.start]
        if size > max(GROWTH * self._held, SMALL) and self._waited < PATIENCE:
            return None
        self._at, self._held, self._waited = best, size, 0
        return Move(self._alive(best), int(size))

    def at(self, spot: int) -> Move | None:
        """Return what runs need to start at a place in the graph; None where that is not known."""
        alive = self._alive(spot)
        size = self._size(alive)
        return Move(alive, int(size)) if np.isfinite(size) else None

    def place(self, tensors: Sequence[str]) -> int:
        """Return the place in the graph of the first node that makes one of these tensors."""
        return min(self._place[name] for name in tensors)

    def _alive(self, spot: int) -> list[str]:
        """Tensors that nodes from `spot` on need and that are made before, or fed."""
        names = [*self._fed, *(name for name, place in self._place.items() if place < spot)]
        return [name for name in names if self._last_use.get(name, -1) >= spot]

    def _size(self, names: Sequence[str]) -> float:
        """Bytes over all samples; infinite where a tensor is none of the original's."""
        shapes = self._probe.shapes
        if any(name not in shapes for name in names):
            return np.inf
        each = sum(np.prod(shapes[name]) * 4 / self._probe.batch for name in names)
        return float(each * self._samples)


def _last_uses(nodes: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> dict[str, int]:
    last = {tensor.name: len(nodes) for tensor in outputs}
    for index, node in enumerate(nodes):
        for name in [t.name for t in node.inputs] + list(captured_tensors([node])):
            last[name] = max(last.get(name, 0), index)
    return last
