"""Where a tensor holds what belongs to each sample.

Samples mostly lie along the first axis. In recurrent models they often come behind the steps, and
layers may read the two as one axis.
"""

import math

import onnx_graphsurgeon as gs

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.labels.records import Linear


def in_front_of_samples(analysis: Analysis, layer: Linear) -> int | None:
    """Count what lies in front of the samples in a layer's output.

    Returns
    -------
    int or None
        A factor of the output's entries, as in (factor, samples, entries of each): 1 where samples
        come first. None if samples aren't told apart.
    """
    if analysis.fixed_batch is None:
        return _by_growth(analysis, layer)
    return _by_size(analysis, layer, analysis.fixed_batch)


def _by_size(analysis: Analysis, layer: Linear, batch: int) -> int | None:
    """Go by the one axis that is as long as the batch, if there are steps; else by the first."""
    shape = analysis.probe.shapes[layer.y]
    if batch > 1 and any(each.recurrent for each in analysis.flow.linears):
        places = [axis for axis, size in enumerate(shape[:-1]) if size == batch]
        return math.prod(shape[: places[0]]) if len(places) == 1 else None
    return 1 if shape and shape[0] % batch == 0 else None


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
    tensor = next(t for t in analysis.model.node(layer.node).inputs if t.name == layer.x)
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
