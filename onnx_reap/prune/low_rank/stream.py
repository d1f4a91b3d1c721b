"""Channels between linear layers alone, which may be written in another basis.

Where nothing but additions and averages over places happens between the layers that make channels
and those that read them, as in the narrow streams of inverted residuals, channels are coordinates
in a basis that nobody fixed. In a better one fewer coordinates do, and no layer comes on top.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.edit.weights import has_plain_bias, layer_weights, set_layer, set_weight
from onnx_reap.graph.epilogue import affine_behind
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import cast
from onnx_reap.prune.low_rank.factor import Factor, factorable

STREAM = "stream"


@dataclass(frozen=True)
class Stream:
    """A basis for a group of channels."""

    node: str  # Name of the group
    # (C, C) float64: coordinates of channels x are `x @ into`, and channels of coordinates z are `z
    # @ back`
    into: np.ndarray
    back: np.ndarray
    scheme: str = STREAM

    @property
    def rank(self) -> int:
        """Channels, and coordinates."""
        return len(self.into)


Basis = Factor | Stream


@dataclass(frozen=True)
class Ends:
    """The layers that make and that read the channels of a stream."""

    makers: tuple[Linear, ...]
    readers: tuple[Linear, ...]


def stream_ends(
    model: Model, flow: Flow, group: Group, reason_to_keep: Callable[[str], str | None]
) -> Ends | None:
    """Return the layers at the ends of a group's channels, None if other nodes touch these."""
    tensors = flow.holders(group.units)
    makers = tuple(linear for linear in flow.linears if linear.y in tensors)
    readers = tuple(linear for linear in flow.linears if linear.x in tensors)
    ends = {linear.node for linear in (*makers, *readers)}
    if group.parts is not None or not (makers and readers):
        return None
    if not all(factorable(model, linear, reason_to_keep) for linear in (*makers, *readers)):
        return None
    if not all(has_plain_bias(model, linear) for linear in makers):
        return None
    if any(not np.array_equal(flow.units_along(t, flow.axes[t]), group.units) for t in tensors):
        return None
    behind = [affine_behind(model, linear, group.width)[0] for linear in makers]
    folded = {id(node) for nodes in behind for node in nodes}
    for node in model.nodes:
        key = model.keys[id(node)]
        touched = any(tensor.name in tensors for tensor in (*node.inputs, *node.outputs))
        if touched and key not in ends and id(node) not in folded and not _linear(node, tensors):
            return None
    return Ends(makers, readers)


def _linear(node: gs.Node, tensors: Container[str]) -> bool:
    """Whether a node makes the same sums of all channels of a stream."""
    if node.domain not in STANDARD_DOMAINS:
        return False
    held = [tensor.name in tensors for tensor in node.inputs]
    if node.op == "Shape":
        return True
    if not all(tensor.name in tensors for tensor in node.outputs):
        return False
    if node.op == "Resize" and node.attrs.get("extrapolation_value"):
        return False
    traits = traits_of(node.op)
    if traits & (Trait.ADDS | Trait.SUBTRACTS):
        return all(held)
    return bool(traits & (Trait.LINEAR | Trait.SAME_ENTRIES)) and held[0] and not any(held[1:])


def change_basis(model: Model, ends: Ends, stream: Stream) -> None:
    """Write a stream in its basis, in place: its layers take over what maps per channel do."""
    for linear in ends.readers:
        stored = model.node(linear.node).inputs[1].values
        set_weight(model, linear, _along(stored, linear.weight_in, stream.back))
    for linear in ends.makers:
        node = model.node(linear.node)
        behind, scale, shift = affine_behind(model, linear, stream.rank)
        stored, bias = layer_weights(model, linear)
        weight = _along(stored, linear.weight_out, scale[:, None] * stream.into, transposed=True)
        shift = (bias * scale + shift) @ stream.into
        if behind:
            end = behind[-1].outputs[0]
            behind[-1].outputs.clear()
            node.outputs = [end]
            model.drop([behind[-1]])
        if shift.any() or linear.bias is not None:
            set_layer(model, linear, weight, shift)
        else:
            set_weight(model, linear, weight)


def taken_over(model: Model, linear: Linear, width: int) -> float:
    """Return by how many parameters a layer at the front of a stream, and what follows, shrink.

    Of a constant that several nodes read each counts its share.
    """
    behind, _, shift = affine_behind(model, linear, width)
    constants = (t for node in behind for t in node.inputs if isinstance(t, gs.Constant))
    gone = sum(_share(t) for t in constants if is_floating(t))
    before = 0.0 if linear.bias is None else _share(model.constants()[linear.bias])
    return gone - (width - before if shift.any() or before else 0)


def _share(constant: gs.Constant) -> float:
    return float(prod(constant.shape) / len(constant.outputs))


def _along(
    stored: np.ndarray, axis: int, matrix: np.ndarray, *, transposed: bool = False
) -> np.ndarray:
    """Multiply a weight along an axis, in float64: rows of `matrix`, or its columns, by entries."""
    matrix = matrix.T if transposed else matrix
    changed = np.tensordot(matrix, stored.astype(np.float64), (1, axis))
    return cast(np.ascontiguousarray(np.moveaxis(changed, 0, axis)), stored.dtype)
