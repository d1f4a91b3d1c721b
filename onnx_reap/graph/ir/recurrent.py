"""Recurrent layers as linear maps of what they read.

LSTM, GRU and RNN multiply their input by a weight for all gates and directions before anything else
happens: `X W^T + b`. That is a layer like any other, whose inputs may go and whose weight may be
refitted. No tensor of the graph holds its result, the projection, so it gets a name and a shape of
its own; its values follow from the layer's input.
"""

import numpy as np

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.rules.traits import Trait, traits_of


def projection(key: str) -> str:
    """Return the name that stands for the projection of a recurrent layer, by the node's key."""
    return f"{key}:projection"


def hidden_axes(key: str) -> tuple[str, str, str, str]:
    """Return names that stand for axes of a recurrent layer's constants, by the node's key.

    The hidden state, all gates of it, the two biases of each gate, and the peepholes.
    """
    return f"{key}:state", f"{key}:gates", f"{key}:biases", f"{key}:peepholes"


def add_projections(
    model: Model,
    shapes: dict[str, tuple[int, ...]],
    dtypes: dict[str, np.dtype],
    dynamic: dict[str, frozenset[int]],
) -> None:
    """Describe projections and hidden axes of a model's recurrent layers like tensors, in place.

    Parameters
    ----------
    shapes, dtypes, dynamic : dict
        Of the tensors, see `onnx_reap.graph.ir.probe.Probe`; projections are (steps, batch,
        results), or batch first where the input is.
    """
    for node in model.nodes:
        standard = Trait.RECURRENT in traits_of(node.op) and node.domain in STANDARD_DOMAINS
        x, weight, recurrence = [t.name for t in node.inputs[:3]] if standard else ("", "", "")
        constants = (shapes.get(weight, ()), shapes.get(recurrence, ()))
        # A constant input makes a constant projection: there is no layer then.
        if x not in dtypes or any(len(shape) != 3 for shape in constants):
            continue
        name = projection(model.keys[id(node)])
        directions, results, _ = shapes[weight]
        shapes[name] = (*shapes[x][:2], directions * results)
        dtypes[name] = dtypes[x]
        hidden = constants[1][2]
        for axis, size in zip(
            hidden_axes(model.keys[id(node)]),
            (hidden, results, 2 * results, 3 * hidden),
            strict=True,
        ):
            shapes[axis], dtypes[axis] = (size,), dtypes[x]
        if x in dynamic:
            dynamic[name] = dynamic[x] - {2}
