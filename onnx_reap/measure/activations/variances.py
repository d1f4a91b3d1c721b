"""Variances at layers: of what they read, and of what a weight makes of it, streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from onnx_reap.data import Calibration
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import batch_size, positions_for
from onnx_reap.measure.activations.rows import (
    finite,
    input_rows,
    output_shape,
    own_samples,
    sample_positions,
)
from onnx_reap.onnxio.session import run, session, with_outputs

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """A layer, and weights (g, D, O) to try on its input."""

    linear: Linear
    weights: Sequence[np.ndarray]


@dataclass
class Spread:
    """Running variance of (g, n, D) rows, about the mean of the first batch."""

    count: int = 0
    origin: Vector | None = None
    total: Vector | float = 0.0
    squares: Vector | float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Take more rows."""
        if self.origin is None:
            self.origin = rows.mean(axis=1, keepdims=True, dtype=np.float64)
        away = rows - self.origin
        self.count += rows.shape[1]
        self.total = self.total + away.sum(axis=1)
        self.squares = self.squares + np.square(away).sum(axis=1)

    def variance(self) -> Vector:
        """Return the variance of every column, (g, D)."""
        mean = self.total / self.count
        return np.maximum(self.squares / self.count - mean * mean, 0)


def variances(
    model: onnx.ModelProto,
    asked: Mapping[str, Asked],
    calibration: Calibration,
    probe: Probe,
    *,
    positions: int,
    seed: int,
    fixed_batch: int | None,
    providers: Sequence[str],
    on_batch: Callable[[int], None],
) -> dict[str, tuple[Vector, list[float]]]:
    """Run a model, and look at the inputs of layers.

    Parameters
    ----------
    asked : mapping of str to Asked
        By node.
    positions : int
        Output positions sampled per sample and layer.

    Returns
    -------
    dict
        By node, the variance of its input's columns, (g, D), and for each weight the variance of
        what it gives, summed over the outputs.
    """
    if not asked:
        return {}
    names = list(dict.fromkeys(each.linear.x for each in asked.values()))
    active = session(with_outputs(model, names), providers)
    size = batch_size(probe, names, fixed_batch)
    rng = np.random.default_rng(seed)
    spreads = {node: [Spread() for _ in range(1 + len(a.weights))] for node, a in asked.items()}
    seen = 0
    for feed in calibration.batches(size, pad=fixed_batch is not None):
        own = min(size, len(calibration) - seen)
        values = run(active, names, feed)
        for node, each in asked.items():
            linear, x = each.linear, values[each.linear.x]
            x = x if fixed_batch is None else own_samples(x, own, size)
            y_shape = output_shape(linear, x.shape, probe.shapes[linear.y])
            width = probe.shapes[linear.x][linear.x_axis] * linear.taps
            limit = positions_for(width // linear.group, width, len(calibration), positions)
            at = sample_positions(linear, y_shape, limit, rng)
            rows = finite(linear, input_rows(linear, x, y_shape, at))
            first, *others = spreads[node]
            first.add(rows)
            for spread, weight in zip(others, each.weights, strict=True):
                spread.add(rows @ weight.astype(np.float32))
        seen += own
        on_batch(own)
    return {
        node: (first.variance(), [float(other.variance().sum()) for other in others])
        for node, (first, *others) in spreads.items()
    }
