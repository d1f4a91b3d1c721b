"""Taking branches out: what they add becomes one number per channel, and their nodes go."""

from collections.abc import Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.branches import Branch
from onnx_reap.graph.constancy import constant_values, per_channel
from onnx_reap.graph.edit.mask import mask_graph
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.graph.labels.records import Flow


def vanish(
    model: Model,
    probe: Probe,
    flow: Flow,
    removed: Collection[int],
    gone: Sequence[Branch],
    kept: Kept,
) -> None:
    """Put constants where branches were joined, and drop what then serves nobody; in place.

    Parameters
    ----------
    removed : collection of int
        All units that go: a gate on a branch may have lost some.
    kept : mapping of str to (int, array)
        What stays of tensors that lose something.
    """
    left, unread = _left_over(model, probe, flow, removed, gone), []
    nodes = {model.keys[id(node)]: node for node in model.nodes}
    constants: dict[str, gs.Constant] = {}  # One for all trips of a loop
    for branch, vectors in zip(gone, left, strict=True):
        for join, vector in zip(branch.joins, vectors, strict=True):
            (key, place), tensor = join.edge, join.tensor
            stays = kept[tensor][1] if tensor in kept else slice(None)
            shape = (-1, *(1,) * (len(probe.shapes[tensor]) - join.axis - 1))
            dtype = probe.type_as_given(tensor)
            assert dtype is not None  # branches where it is unknown are none
            values = vector[stays].reshape(shape).astype(dtype)
            unread += nodes[key].inputs[place].inputs
            first = model.origin.in_first_trip.get(tensor, tensor)
            if first not in constants:
                constants[first] = gs.Constant(model.unused(f"{first}_gone"), values)
            nodes[key].inputs[place] = constants[first]
    model.drop(unread)


def _left_over(
    model: Model,
    probe: Probe,
    flow: Flow,
    removed: Collection[int],
    gone: Sequence[Branch],
) -> list[list[np.ndarray]]:
    """Return by branch and join what branches give in the masked model, (C,) each."""
    before = {name: constant.values for name, constant in model.constants().items()}
    mask_graph(model, flow, removed)
    found = []
    for branch in gone:
        tensors = [join.tensor for join in branch.joins]
        values = constant_values(model, probe, flow, branch.roots, tensors)
        assert values is not None  # branches whose layers' biases are others are none
        vectors = [per_channel(values[join.tensor], join.axis) for join in branch.joins]
        found.append([v for v in vectors if v is not None])
    for name, constant in model.constants().items():
        constant.values = before[name]
    return found
