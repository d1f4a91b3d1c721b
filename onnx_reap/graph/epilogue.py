"""What happens to a layer's output: a per-channel affine map, a shortcut, a clipping activation.

A layer's error matters behind these. BatchNormalization scales it, an addition lets the layer make
up for errors of the shortcut, and a clipping activation forgives errors where it clips anyway.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.export import node_proto
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.rules.recurrent import GATES
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.quantiser import quantiser_of

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Epilogue:
    """What follows a layer's output y: u = scale * y + shift, then u + addend, then clipping."""

    # (O,) float64: per output channel
    scale: Vector
    shift: Vector
    tensor: str  # The tensor that holds u, or u + addend where there is one
    addend: str | None = None  # The other operand of the addition
    # Bounds of the clipping activation that is all that reads `tensor`; infinite without one
    low: float = -np.inf
    high: float = np.inf


def find_epilogue(model: Model, linear: Linear, outputs: int) -> Epilogue:
    """Follow a layer's output as long as a single node reads it.

    Parameters
    ----------
    outputs : int
        Output channels of the layer in this model.
    """
    if linear.recurrent:
        # Roughly how far the state moves with each of its gates.
        scale = np.full(outputs, 1 / GATES[linear.op])
        return Epilogue(scale, np.zeros(outputs), linear.y)
    nodes, scale, shift = affine_behind(model, linear, outputs)
    tensor = (nodes[-1] if nodes else model.node(linear.node)).outputs[0]
    rank = linear.y_axis + 1 + len(linear.kernel)
    reader = only_reader(model, tensor)
    addend = None
    if reader is not None and Trait.ADDS in traits_of(reader.op) and tensor.name != linear.x:
        other = [t for t in reader.inputs if t is not tensor]
        if len(other) == 1 and not isinstance(other[0], gs.Constant):
            addend, tensor = other[0].name, reader.outputs[0]
            reader = only_reader(model, tensor)
            # Constants that are added behind, where branches were, shift the sum.
            while reader is not None and traits_of(reader.op) & (Trait.ADDS | Trait.SUBTRACTS):
                affine = affine_map(reader, tensor, linear.y_axis, rank, outputs)
                if affine is None:
                    break
                shift, tensor = shift + affine[1], reader.outputs[0]
                reader = only_reader(model, tensor)
    low, high = clipping(reader)
    return Epilogue(scale, shift, tensor.name, addend, low, high)


def affine_behind(
    model: Model, linear: Linear, outputs: int
) -> tuple[list[gs.Node], Vector, Vector]:
    """Follow a layer's output through maps per channel, as long as a single node reads it.

    Parameters
    ----------
    outputs : int
        Output channels of the layer in this model.

    Returns
    -------
    nodes : list of gs.Node
    scale, shift : (O,) float64 array
        What all of them do.
    """
    nodes, scale, shift = [], np.ones(outputs), np.zeros(outputs)
    tensor = model.node(linear.node).outputs[0]
    rank = linear.y_axis + 1 + len(linear.kernel)
    while (reader := only_reader(model, tensor)) is not None:
        affine = affine_map(reader, tensor, linear.y_axis, rank, outputs)
        if affine is None:
            break
        scale, shift = scale * affine[0], shift * affine[0] + affine[1]
        tensor = reader.outputs[0]
        nodes.append(reader)
    return nodes, scale, shift


def only_reader(model: Model, tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that reads a tensor, if it is a single one that we know."""
    if len(tensor.outputs) != 1 or any(tensor is t for t in model.graph.outputs):
        return None
    reader = tensor.outputs[0]
    return reader if reader.domain in STANDARD_DOMAINS else None


def affine_map(
    node: gs.Node, tensor: gs.Tensor, axis: int, rank: int, outputs: int
) -> tuple[Vector, Vector] | None:
    """Return scale and shift per channel if the node is such a map of `tensor`."""
    if node.op == "Identity":
        return np.ones(outputs), np.zeros(outputs)
    if node.op == "BatchNormalization" and tensor is node.inputs[0] and axis == 1:
        own_statistics = all(isinstance(t, gs.Constant) for t in node.inputs[1:5])
        if not own_statistics or node.attrs.get("training_mode", 0):
            return None
        gamma, beta, mean, var = (t.values.astype(np.float64) for t in node.inputs[1:5])
        scale = gamma / np.sqrt(var + node.attrs.get("epsilon", 1e-5))
        return scale, beta - mean * scale
    arithmetic = traits_of(node.op) & (Trait.ADDS | Trait.SUBTRACTS | Trait.SCALES)
    constant = next((t for t in node.inputs if isinstance(t, gs.Constant)), None)
    if constant is None or len(node.inputs) != 2 or not arithmetic:
        return None
    values = _per_channel(constant.values, axis, rank, outputs)
    return None if values is None else _with_constant(node, constant, values)


def _with_constant(
    node: gs.Node, constant: gs.Constant, values: Vector
) -> tuple[Vector, Vector] | None:
    """Return what a binary node does to its other operand, from the constant one by channel."""
    zeros, ones, first = np.zeros_like(values), np.ones_like(values), constant is node.inputs[0]
    match node.op:
        case "Add":
            return ones, values
        case "Mul":
            return values, zeros
        case "Sub" if not first:
            return ones, -values
        case "Div" if not first and values.all():
            return 1 / values, zeros
    return None


def _per_channel(values: np.ndarray, axis: int, rank: int, outputs: int) -> Vector | None:
    """Return a broadcastable constant as one number per channel, if it is that."""
    if values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    others = [size for place, size in enumerate(shape) if place != axis]
    if any(size != 1 for size in others) or shape[axis] not in (1, outputs):
        return None
    return np.broadcast_to(values.astype(np.float64).ravel(), (outputs,))


def clipping(node: gs.Node | None) -> tuple[float, float]:
    """Return the bounds of a clipping activation, infinite where a node is none."""
    if node is not None and node.op == "Relu":
        return 0.0, np.inf
    if node is not None and node.op == "QuantizeLinear":
        constants = {t.name: t.values for t in node.inputs[1:] if isinstance(t, gs.Constant)}
        found = quantiser_of(node_proto(node), constants, 1)
        if found is None or found.scale.size > 1:
            return -np.inf, np.inf
        return float(found.bounds[0].item()), float(found.bounds[1].item())
    if node is not None and node.op == "Clip":
        low, high = node.attrs.get("min", -np.inf), node.attrs.get("max", np.inf)
        given = [t for t in node.inputs[1:] if t.name]
        if any(not isinstance(t, gs.Constant) for t in given):
            return -np.inf, np.inf
        if len(node.inputs) > 1 and node.inputs[1].name:
            low = node.inputs[1].values.item()
        if len(node.inputs) > 2 and node.inputs[2].name:
            high = node.inputs[2].values.item()
        return float(low), float(high)
    return -np.inf, np.inf
