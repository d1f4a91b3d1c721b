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
from onnx_reap.measure.runner import run_batches
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
    on_batch: Callable[[int], object] | None = None,
) -> dict[str, tuple[Vector, list[float]]]:
    """Run the model; return variances of layers' inputs, and of their products with weights.

    Returns
    -------
    dict
        By node, the variance of its input's columns, (g, D), and for each weight the variance of
        the product, summed over the outputs.
    """
    if not layers:
        return {}
    shapes = analysis.probe.shapes
    names = list(dict.fromkeys(linear.x for linear, _ in layers))
    rng = np.random.default_rng(settings.seed)
    found = {layer.node: [RunningVariance() for _ in (0, *weights)] for layer, weights in layers}
    model = analysis.model.to_run()
    for _, (values,) in run_batches(analysis, [model], samples, outputs=names, on_batch=on_batch):
        for linear, weights in layers:
            width = shapes[linear.x][linear.x_axis] * linear.taps
            limit = positions_for(width // linear.group, width, len(samples), settings.positions)
            rows = sampled_rows(linear, values[linear.x], shapes, limit, rng)
            inputs, *products = found[linear.node]
            inputs.add(rows)
            for product, weight in zip(products, weights, strict=True):
                product.add(rows @ weight.astype(np.float32))
    return {
        node: (inputs.variance(), [float(product.variance().sum()) for product in products])
        for node, (inputs, *products) in found.items()
    }
