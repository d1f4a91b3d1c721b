"""Latency as a function of the groups' widths, read off a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.cost import count_entries, layer_extents
from onnx_reap.measure.latency.profile import layer_heads
from onnx_reap.measure.latency.table import LatencyTable, LayerTimes, check_layers
from onnx_reap.solve.cost import Cost, Extent, Widths
from onnx_reap.solve.gates import ALWAYS, Gates, Paths

NANOSECONDS = 1e6
"""In a millisecond."""


def predicted_latency(analysis: Analysis, table: LatencyTable) -> LatencyEstimate:
    """Make a table a function of the widths of a model's groups; see `check_layers`."""
    heads = layer_heads(analysis)
    check_layers(table, heads)
    measured = {layer.node: layer for layer in table.layers}
    return LatencyEstimate(
        replace(table, layers=tuple(measured[head.node] for head in heads)),
        layer_extents(analysis.flow, analysis.groups),
        count_entries(
            analysis.model, analysis.probe, analysis.flow, analysis.groups, analysis.branches
        ),
        np.array([group.width for group in analysis.groups], np.int64),
        [analysis.branches.of(layer.node) for layer in analysis.flow.linears],
    )


class LatencyEstimate:
    """Predicted latency for any widths, in nanoseconds; stands where a `solve.cost.Cost` does.

    Layers are interpolated bilinearly between the input and output widths that they were measured
    at, and not made monotone: a width that is slower than a wider one costs what it costs, so that
    a plan gains by taking the wider one. Below the narrowest measured width nothing more is saved.

    What is not a linear layer is the rest of the whole model's latency, and shrinks with the
    entries of the tensors that other nodes make: pooling, resizing, sums and activations touch each
    entry about once. Where layers alone take longer than the model of all of them, which the
    measurement's own overhead can do to small layers, they are scaled to its latency.

    Parameters
    ----------
    extents : sequence of (Extent, Extent)
        Input and output channels of every layer of the table, in its order.
    entries : Cost
        Entries of the tensors that other nodes make.
    paths : sequence of Paths, optional
        By layer, which groups take it along when they vanish; by default none does.
    """

    def __init__(
        self,
        table: LatencyTable,
        extents: Sequence[tuple[Extent, Extent]],
        entries: Cost,
        full: Widths,
        paths: Sequence[Paths] | None = None,
    ) -> None:
        layers, groups = table.layers, len(full)
        size = max([2, *(len(w) for layer in layers for w in (layer.inputs, layer.outputs))])
        self._grid = np.array([_grids(layer, size) for layer in layers]).reshape(-1, 2, size)
        # The measured range of each axis, (layers, 2): a grid's padding lies beyond.
        ends = [[(w[0], w[-1]) for w in (layer.inputs, layer.outputs)] for layer in layers]
        self._low, self._high = np.moveaxis(np.reshape(ends, (-1, 2, 2)).astype(float), 2, 0)
        self._ns = np.array([_times(layer, size) for layer in layers]).reshape(-1, size, size)
        self._gates = Gates([ALWAYS] * len(layers) if paths is None else paths, groups)
        self._fixed = np.array([[e.fixed for e in pair] for pair in extents]).reshape(-1, 2)
        self._slope = np.zeros((len(layers), 2, groups))
        for i, pair in enumerate(extents):
            for j, extent in enumerate(pair):
                for g, each in extent.per_unit.items():
                    self._slope[i, j, g] = each
        whole, alone = table.whole_ms * NANOSECONDS, self._layers(self._lengths(full)).sum()
        if alone > whole:
            self._ns *= whole / alone
        self._entries = entries
        self._per_entry = max(whole - alone, 0.0) / max(entries.at(full), 1)
        self._constant = whole if not layers and not entries.at(full) else 0.0

    def at(self, widths: Widths) -> int:
        """Nanoseconds when group g keeps `widths[g]` units; widths has shape (groups,)."""
        layers = float(self._gates.present(widths) @ self._layers(self._lengths(widths)))
        result: int = round(layers + self._per_entry * self._entries.at(widths) + self._constant)
        return result

    def alone(self, widths: Widths, options: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Nanoseconds if one group alone changed, for each of its options; see `Cost.alone`."""
        change = (options - np.asarray(widths)[:, None])[..., None, None]  # (groups, k, 1, 1)
        slopes = np.moveaxis(self._slope, -1, 0)[:, None]  # (groups, 1, layers, 2)
        base = self._lengths(widths)
        if_open = self._gates.present_if(widths, closed=False).T[:, None]
        if_closed = self._gates.present_if(widths, closed=True).T[:, None]
        present = np.where((options > 0)[..., None], if_open, if_closed)
        layers = np.stack(
            [
                (p * self._layers(base + c * s)).sum(-1)
                for c, s, p in zip(change, slopes, present, strict=True)
            ]
        )
        result: npt.NDArray[np.float64] = (
            layers + self._per_entry * self._entries.alone(widths, options) + self._constant
        )
        return result

    def per_unit(self, widths: Widths) -> npt.NDArray[np.float64]:
        """Nanoseconds per unit of each group, shape (groups,).

        That is the mean slope between the narrowest and the widest measured width of an axis, at
        the present length of the other axis: steps and noise between neighbouring widths would
        mislead whoever looks at widths far off.
        """
        lengths, present = self._lengths(widths), self._gates.present_if(widths, closed=False)
        total = self._per_entry * self._entries.per_unit(widths)
        for axis in (0, 1):
            narrow, wide = lengths.copy(), lengths.copy()
            narrow[:, axis], wide[:, axis] = self._low[:, axis], self._high[:, axis]
            span = np.maximum(self._high[:, axis] - self._low[:, axis], 1)
            slope = (self._layers(wide) - self._layers(narrow)) / span
            total = total + slope @ (self._slope[:, axis] * present)
        return np.asarray(total)

    def _lengths(self, widths: Widths) -> npt.NDArray[np.float64]:
        """Channels at the inputs and outputs of every layer, (layers, 2)."""
        return np.asarray(self._fixed + self._slope @ np.asarray(widths, float))

    def _layers(self, lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Nanoseconds of every layer at lengths of shape (..., layers, 2): (..., layers)."""
        inside = np.clip(lengths, self._low, self._high)
        below = (self._grid <= inside[..., None]).sum(-1) - 1
        below = np.clip(below, 0, self._grid.shape[2] - 2)
        row = np.arange(len(self._grid))
        layer, axis = row[:, None], np.arange(2)
        left, right = self._grid[layer, axis, below], self._grid[layer, axis, below + 1]
        part = (inside - left) / (right - left)
        (s, t), (i, j) = (part[..., 0], part[..., 1]), (below[..., 0], below[..., 1])
        near = (1 - t) * self._ns[row, i, j] + t * self._ns[row, i, j + 1]
        far = (1 - t) * self._ns[row, i + 1, j] + t * self._ns[row, i + 1, j + 1]
        return np.asarray((1 - s) * near + s * far)


def _grids(layer: LayerTimes, size: int) -> list[npt.NDArray[np.float64]]:
    """Both axes' widths, continued to a common length."""
    axes = (layer.inputs, layer.outputs)
    return [np.append(w, w[-1] + 1.0 + np.arange(size - len(w))) for w in axes]


def _times(layer: LayerTimes, size: int) -> npt.NDArray[np.float64]:
    times = NANOSECONDS * np.array(layer.ms)
    return np.pad(times, [(0, size - n) for n in times.shape], mode="edge")
