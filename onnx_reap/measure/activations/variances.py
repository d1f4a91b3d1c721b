"""Variances of layers' inputs, and of their products with weights, streamed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import positions_for
from onnx_reap.measure.activations.rows import sampled_rows
from onnx_reap.options import Settings

Vector = npt.NDArray[np.float64]


@dataclass
class RunningVariance:
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
    analysis: Analysis,
    layers: Sequence[tuple[Linear, Sequence[np.ndarray]]],
    samples: Calibration,
    settings: Settings,
    on_batch: Callable[[int], object] | None,
) -> dict[str, tuple[Vector, list[float]]]:
    """Run the model; return variances of layers' inputs, and of their products with weights.

    Returns
    -------
    dict
        By node, the variance of its input's columns, (g, D), and for each weight the variance of
        the product, summed over the outputs.
    """
    limits = [
        (linear, _positions(analysis, linear, len(samples), settings)) for linear, _ in layers
    ]
    weights = {linear.node: each for linear, each in layers}
    found = {layer.node: [RunningVariance() for _ in (0, *each)] for layer, each in layers}
    for linear, rows in sampled_rows(analysis, limits, samples, settings.seed, on_batch):
        inputs, *products = found[linear.node]
        inputs.add(rows)
        for product, weight in zip(products, weights[linear.node], strict=True):
            product.add(rows @ weight.astype(np.float32))
    return {
        node: (inputs.variance(), [float(product.variance().sum()) for product in products])
        for node, (inputs, *products) in found.items()
    }


def _positions(analysis: Analysis, linear: Linear, samples: int, settings: Settings) -> int:
    width = analysis.probe.shapes[linear.x][linear.x_axis] * linear.taps
    return positions_for(width // linear.group, width, samples, settings.positions)
