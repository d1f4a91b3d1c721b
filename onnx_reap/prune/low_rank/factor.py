"""A layer as two: the record, which layers can be, what they cost, and rewriting the graph."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.edit.weights import set_weight
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.dtypes import cast
from onnx_reap.solve.eigenbases import Product

CHANNEL, SPATIAL = "channel", "spatial"
BIASLESS_GEMM = 11  # the first opset that has it
_SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Factor:
    """Two layers in place of one."""

    linear: Linear  # The layer
    # "channel" or "spatial": its whole kernel to a basis and 1 x 1 from there, or k_h x 1 and 1 x
    # k_w
    scheme: str
    first: np.ndarray  # Weight of the new layer in front, (D, R) or as a convolution stores it
    second: np.ndarray  # What the layer's own weight becomes

    @property
    def node(self) -> str:
        """Key of the layer, which stays that of the second of the two."""
        return self.linear.node

    @property
    def rank(self) -> int:
        """Channels between the two."""
        return int(self.first.shape[0] if self.linear.kernel else self.first.shape[1])


def factorable(model: Model, linear: Linear, reason_to_keep: Callable[[str], str | None]) -> bool:
    """Whether a layer is a plain matrix of its own that may be written as a product."""
    if linear.transposed or linear.recurrent or linear.group > 1 or reason_to_keep(linear.node):
        return False
    if linear.alpha == 0:  # its weight means nothing
        return False
    weight = model.node(linear.node).inputs[1]
    taken = captured_tensors(model.nodes).keys() | {t.name for t in model.graph.outputs}
    alone = len(weight.outputs) == 1 and weight.name not in taken
    return bool(alone and np.dtype(weight.dtype) == np.float32 and min(weight.shape) > 0)


def may_split(linear: Linear) -> bool:
    """Whether a kernel has two axes to split it along."""
    return len(linear.kernel) == 2 and min(linear.kernel) > 1


def as_channels(linear: Linear, product: Product, stored: np.ndarray) -> Factor:
    """Make a factor of W = first second, (D, R) and (R, O).

    Parameters
    ----------
    product : Product
        Of NumPy arrays.
    stored : array
        The layer's weight as it is.
    """
    first, second = product.first, product.second
    rank = first.shape[1]
    if linear.kernel:
        inputs = stored.shape[1]
        front = first.T.reshape(rank, inputs, *linear.kernel)
        back = second.T.reshape(stored.shape[0], rank, *(1,) * len(linear.kernel))
    else:
        front = first
        back = (second if linear.weight_in == 0 else second.T) / linear.alpha
    return Factor(linear, CHANNEL, *(_stored(w, stored) for w in (front, back)))


def as_slices(linear: Linear, product: Product, stored: np.ndarray) -> Factor:
    """Make a factor of vertical slices; `product` is (C k_h, R) and (R, k_w O), of NumPy arrays."""
    (down, across), rank = linear.kernel, product.first.shape[1]
    front = product.first.T.reshape(rank, stored.shape[1], down, 1)
    back = product.second.reshape(rank, across, stored.shape[0]).transpose(2, 0, 1)
    return Factor(linear, SPATIAL, *(_stored(w, stored) for w in (front, back[:, :, None, :])))


def _stored(weight: np.ndarray, like: np.ndarray) -> np.ndarray:
    return cast(np.ascontiguousarray(weight), like.dtype)


def costs_of_rank(
    linear: Linear, scheme: str, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> tuple[int, int]:
    """Return the multiply-accumulates of a layer, and of its two factors per channel between.

    Parameters
    ----------
    x_shape, y_shape : tuple of int
        Of the layer's input and output; both costs are for that many samples.
    """
    inputs, outputs = x_shape[linear.x_axis], y_shape[linear.y_axis]
    places = prod(y_shape) // outputs
    whole = places * inputs * outputs * linear.taps
    if scheme == CHANNEL:
        return whole, places * (inputs * linear.taps + outputs)
    down, across = linear.kernel
    between = places // max(y_shape[-1], 1) * x_shape[-1]  # the first of the two leaves its width
    return whole, between * inputs * down + places * outputs * across


def insert(model: Model, factor: Factor) -> str:
    """Put two layers in place of one, the second on the node that was there; return the first."""
    linear, node = factor.linear, model.node(factor.linear.node)
    x, y = node.inputs[0], node.outputs[0]
    between = gs.Variable(model.unused(f"{y.name}_basis"), y.dtype)
    weight = gs.Constant(model.unused(f"{linear.weight}_basis"), factor.first)
    attributes: dict[str, object] = {}
    if linear.kernel:
        attributes, back = _attributes(linear, node, factor.scheme)
        node.attrs.update(back)
        for name in ({"auto_pad", "pads"} - back.keys()) & node.attrs.keys():
            del node.attrs[name]
    # A Gemm takes a bias later on, though it may lack one in newer opsets only.
    op = "MatMul" if linear.op == "Gemm" and model.opset < BIASLESS_GEMM else linear.op
    first = gs.Node(op, f"{linear.node}_basis", attributes, [x, weight], [between])
    node.inputs[0] = between
    set_weight(model, linear, factor.second)
    model.insert(first, node)
    return str(model.keys[id(first)])


def _attributes(
    linear: Linear, node: gs.Node, scheme: str
) -> tuple[dict[str, object], dict[str, object]]:
    """Divide the geometry of a convolution: every axis is treated by one of the two."""
    rank = len(linear.kernel)
    own = range(rank) if scheme == CHANNEL else range(1)
    automatic = node.attrs.get("auto_pad")

    def part(axes: set[int]) -> dict[str, object]:
        def chosen(values: tuple[int, ...], other: int) -> list[int]:
            return [int(v) if i % rank in axes else other for i, v in enumerate(values)]

        padding: dict[str, object] = {"pads": chosen(linear.pads, 0)}
        if automatic in _SAME and axes:  # it follows the size, axis by axis
            padding = {"auto_pad": automatic}
        return {
            "kernel_shape": chosen(linear.kernel, 1),
            "strides": chosen(linear.strides, 1),
            "dilations": chosen(linear.dilations, 1),
            **padding,
        }

    return part(set(own)), part(set(range(rank)) - set(own))
