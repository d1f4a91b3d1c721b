"""Recurrent layers as linear maps of what they read.

At every step t the gates of an LSTM, GRU or RNN are, before their activations,

    z_t = W x_t + R h_(t-1) + b,

two linear maps: of the input, and of the state before the step, which in the other direction is
that of step t + 1. So a layer whose input and states are known is a linear one, with inputs that
may go and weights that may be refitted, step by step and without a gradient through time.

The first map is done for all steps before anything else happens. No tensor of the graph holds its
result, the projection, so it gets a name and a shape of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.rules.traits import Trait, traits_of


def projection(key: str) -> str:
    """Return the name that stands for the projection of a recurrent layer, by the node's key."""
    return f"{key}:projection"


def hidden_axes(key: str) -> tuple[str, str, str, str]:
    """Return names that stand for axes of a recurrent layer's constants, by the node's key.

    The hidden state, all gates of it, the two biases of each gate, and the peepholes.
    """
    return f"{key}:state", f"{key}:gates", f"{key}:biases", f"{key}:peepholes"


@dataclass(frozen=True)
class GateMap:
    """Gates that are one linear map of what a step reads."""

    # Which of the gates, in the order of the weights
    first: int
    end: int
    input: bool = True  # Whether they read the step's input
    state: bool = True  # Whether they read the state before the step
    reset: bool = False  # Whether the reset gate multiplies the state first


@dataclass(frozen=True)
class Recurrence:
    """What a recurrent layer reads, and the linear maps in it."""

    x: str  # (steps, samples, inputs)
    states: str  # (steps, directions, samples, hidden): the state behind every step
    # The length of every sample, and the state before the first step, (directions, samples,
    # hidden): a tensor's name or a constant; None where all steps count, and where it is zero
    lengths: str | np.ndarray | None
    initial: str | np.ndarray | None
    backwards: tuple[bool, ...]  # By direction
    maps: tuple[GateMap, ...]

    @property
    def reads(self) -> list[str]:
        """The tensors that the layer depends on."""
        return [name for name in (self.x, self.lengths, self.initial) if isinstance(name, str)]

    @property
    def tensors(self) -> list[str]:
        """The tensors that tell what every step reads and gives."""
        return [*self.reads, self.states]


def recurrence(node: gs.Node, key: str) -> Recurrence:
    """Describe a recurrent layer."""
    direction = node.attrs.get("direction", "forward")
    both = direction == "bidirectional"
    backwards = (False, True) if both else (direction == "reverse",)
    x, states = node.inputs[0].name, node.outputs[0].name or hidden_states(key)
    return Recurrence(x, states, _optional(node, 4), _optional(node, 5), backwards, _maps(node))


def _optional(node: gs.Node, place: int) -> str | np.ndarray | None:
    for tensor in node.inputs[place : place + 1]:
        if isinstance(tensor, gs.Constant):
            return np.asarray(tensor.values)
        return str(tensor.name) or None
    return None


def _maps(node: gs.Node) -> tuple[GateMap, ...]:
    """Divide the gates by what they read: of a GRU's, the last one reads the state in its own way.

    Where the reset gate multiplies the product with the state, it is a map by itself.
    """
    gates = node.inputs[2].shape[1] // node.inputs[2].shape[2]
    if node.op != "GRU":
        return (GateMap(0, gates),)
    if node.attrs.get("linear_before_reset", 0):
        return GateMap(0, 2), GateMap(2, 3, state=False), GateMap(2, 3, input=False)
    known = node.attrs.get("activations", ["Sigmoid"])[::2]
    if any(name.lower() != "sigmoid" for name in known):
        return GateMap(0, 2), GateMap(2, 3, state=False)
    return GateMap(0, 2), GateMap(2, 3, reset=True)


def hidden_states(key: str) -> str:
    """Return the name that stands for the states of a layer that gives the last one alone."""
    return f"{key}:states"


def with_hidden_states(proto: onnx.NodeProto, key: str, wanted: Collection[str]) -> onnx.NodeProto:
    """Return a node that gives its hidden states if they are wanted by the name above."""
    if hidden_states(key) not in wanted:
        return proto
    out = onnx.NodeProto()
    out.CopyFrom(proto)
    out.output[0] = hidden_states(key)
    return out


def add_projections(
    nodes: Mapping[str, gs.Node],
    shapes: dict[str, tuple[int, ...]],
    dtypes: dict[str, np.dtype],
    dynamic: dict[str, frozenset[int]],
) -> None:
    """Describe projections and hidden axes of recurrent layers like tensors, in place.

    Parameters
    ----------
    nodes : dict of str to gs.Node
        By key, all of a model.
    shapes, dtypes, dynamic : dict
        Of the tensors, see `onnx_reap.graph.ir.probe.Probe`; projections are (steps, batch,
        results), or batch first where the input is.
    """
    for key, node in nodes.items():
        standard = Trait.RECURRENT in traits_of(node.op) and node.domain in STANDARD_DOMAINS
        x, weight, recurrence = [t.name for t in node.inputs[:3]] if standard else ("", "", "")
        constants = (shapes.get(weight, ()), shapes.get(recurrence, ()))
        # A constant input makes a constant projection: there is no layer then.
        if x not in dtypes or any(len(shape) != 3 for shape in constants):
            continue
        name = projection(key)
        directions, results, _ = shapes[weight]
        shapes[name] = (*shapes[x][:2], directions * results)
        dtypes[name] = dtypes[x]
        hidden = constants[1][2]
        sizes = (hidden, results, 2 * results, 3 * hidden)
        for axis, size in zip(hidden_axes(key), sizes, strict=True):
            shapes[axis], dtypes[axis] = (size,), dtypes[x]
        if x in dynamic:
            dynamic[name] = dynamic[x] - {2}
