"""Where a tensor holds what belongs to each sample.

Samples mostly lie along the first axis. In recurrent models they often come behind the steps, and
layers may read the two as one axis.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.session import run, session

CLEARLY = 10
"""How much nearer than any other a place of the samples must come to what a run shows."""


def in_front_of_samples(analysis: Analysis, layers: Sequence[Linear]) -> dict[str, int]:
    """Count what lies in front of the samples in layers' outputs.

    Returns
    -------
    dict of str to int
        By output, a factor of its entries, as in (factor, samples, entries of each): 1 where
        samples come first. Outputs where samples aren't told apart are left out.
    """
    if analysis.fixed_batch is None:
        found = {layer.y: _by_growth(analysis, layer) for layer in layers}
    else:
        found = _by_size(analysis, layers, analysis.fixed_batch)
    return {y: front for y, front in found.items() if front is not None}


def _by_size(analysis: Analysis, layers: Sequence[Linear], batch: int) -> dict[str, int | None]:
    """Go by the only axis that can hold the batch; where several can, by a run."""
    if batch == 1:
        return {layer.y: 1 for layer in layers}
    shapes = analysis.probe.shapes
    fronts = {layer.y: _possible(layer, shapes[layer.y], batch) for layer in layers}
    several = [layer for layer in layers if len(fronts[layer.y]) > 1]
    alone = {y: next(iter(each)) for y, each in fronts.items() if len(each) == 1}
    return alone | _by_run(analysis, several, fronts, batch)


def _possible(layer: Linear, shape: Sequence[int], batch: int) -> set[int]:
    """Return what may lie in front of the samples, which may share an axis with other things."""
    places = [0] if layer.kernel else [axis for axis in range(len(shape)) if axis != layer.y_axis]
    shared = [
        (math.prod(shape[:axis]), shape[axis] // batch)
        for axis in places
        if shape[axis] and shape[axis] % batch == 0
    ]
    return {before * part for before, size in shared for part in _divisors(size)}


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _by_run(
    analysis: Analysis, layers: Sequence[Linear], fronts: dict[str, set[int]], batch: int
) -> dict[str, int | None]:
    """Run samples, and the same in the place of those before them; see what moves along."""
    samples = analysis.samples
    if not layers:
        return {}
    places = np.arange(batch) % len(samples)
    orders = (places.tolist(), np.roll(places, -1).tolist())
    feeds = [next(iter(samples.at(order).batches(batch))) for order in orders]
    # A projection is no tensor; it has its samples where the input has them.
    tensors = {layer.y: layer.x if layer.recurrent else layer.y for layer in layers}
    names = list(dict.fromkeys(tensors.values()))
    model = analysis.model.to_run()
    active = session(model, analysis.providers, outputs=names, optimize=False)
    first, second = (run(active, names, feed) for feed in feeds)
    return {y: _moved(first[x], second[x], fronts[y], batch) for y, x in tensors.items()}


def _moved(a: np.ndarray, b: np.ndarray, fronts: Collection[int], batch: int) -> int | None:
    """Return what lies in front of the samples, if these clearly moved by one; else None."""
    if a.shape != b.shape:
        return None
    errors = []
    for front in (each for each in fronts if a.size % (each * batch) == 0):
        before, after = (x.reshape(front, batch, -1) for x in (a, b))
        with np.errstate(invalid="ignore"):  # infinity from infinity
            away = np.abs(before[:, 1:] - after[:, :-1])
        errors.append((float(np.nansum(away, dtype=np.float64)), front))
    best, *others = sorted(errors) or [(math.inf, 0)]
    return best[1] if others and CLEARLY * best[0] < others[0][0] else None


def _by_growth(analysis: Analysis, layer: Linear) -> int | None:
    """Go by the axes that grow with the batch, up to a tensor where one is as long as the batch."""
    probe = analysis.probe
    grows, shape = probe.dynamic.get(layer.y), probe.shapes[layer.y]
    if not grows or shape[min(grows)] % probe.batch:
        return None
    if shape[min(grows)] == probe.batch:
        return math.prod(shape[: min(grows)])
    if min(grows) > 0:
        return None
    inputs = (t for t in analysis.model.node(layer.node).inputs if probe.dynamic.get(t.name))
    tensor = next((t for t in inputs if t.name == layer.x), None)
    while tensor is not None:
        axis = min(probe.dynamic[tensor.name])
        if probe.shapes[tensor.name][axis] == probe.batch:
            front = math.prod(probe.shapes[tensor.name][:axis])
            return front if shape[0] % (front * probe.batch) == 0 else None
        tensor = _growing_source(analysis, tensor)
    return 1


def _growing_source(analysis: Analysis, tensor: gs.Tensor) -> gs.Tensor | None:
    """Return the first that a tensor is made of and that grows with the batch."""
    read = (source for node in tensor.inputs for source in node.inputs)
    return next((source for source in read if analysis.probe.dynamic.get(source.name)), None)
