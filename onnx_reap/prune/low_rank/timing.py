"""Which ranks make two layers faster than the one that they stand for, by timing them here."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.latency.layer import SizedLayer, layer_of
from onnx_reap.measure.latency.measure import ROUNDS, measure_layers
from onnx_reap.progress import Progress

CLEARLY = 0.9  # of the layer's time: less is noise, or goes on another call
TIMED = 4  # ranks of every layer; times between are interpolated


def faster_ranks(
    original: Analysis,
    changed: Analysis,
    layers: Sequence[tuple[Linear, Linear, Linear, np.ndarray]],
    progress: Progress,
) -> list[np.ndarray]:
    """Leave out ranks at which two layers take about as long as one, or longer.

    Fewer multiply-accumulates need not be faster: another layer has its own calls, and writes and
    reads what lies between.

    Parameters
    ----------
    original, changed : Analysis
        Of the model with one layer each, and with two.
    layers : sequence of (Linear, Linear, Linear, int array)
        A layer of the original, the two of the changed model, and the ranks to judge, ascending.

    Returns
    -------
    list of int array
        By layer.
    """
    points = [_points(original, changed, *layer) for layer in layers]
    every = [point for whole, pairs in points for point in chain([whole], *pairs.values())]
    every = list(dict.fromkeys(every))
    with progress.stage("Timing ranks", ROUNDS * len(every)) as step:
        times = measure_layers(every, original.providers, step)
    faster = []
    for (whole, pairs), (*_, ranks) in zip(points, layers, strict=True):
        known = [sum(times[point] for point in pair) for pair in pairs.values()]
        two = np.interp(ranks, list(pairs), known)
        faster.append(ranks[two < CLEARLY * times[whole]])
    return faster


def _points(
    original: Analysis,
    changed: Analysis,
    one: Linear,
    first: Linear,
    second: Linear,
    ranks: np.ndarray,
) -> tuple[SizedLayer, dict[int, tuple[SizedLayer, SizedLayer]]]:
    """List what to time: a layer, and by rank the two in its place."""
    shapes = original.probe.shapes
    inputs, outputs = shapes[one.x][one.x_axis], shapes[one.y][one.y_axis]
    front, back = layer_of(changed, first), layer_of(changed, second)
    at = np.unique(np.linspace(0, len(ranks) - 1, TIMED).round().astype(int))
    pairs: dict[int, tuple[SizedLayer, SizedLayer]] = {
        rank: (SizedLayer(front, inputs, rank), SizedLayer(back, rank, outputs))
        for rank in ranks[at].tolist()
    }
    return SizedLayer(layer_of(original, one), inputs, outputs), pairs
