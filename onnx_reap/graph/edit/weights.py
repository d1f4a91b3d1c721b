"""Reading and writing the weights of a layer in the graph."""

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.epilogue import only_reader
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.dtypes import cast


def layer_weights(model: Model, linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's weight as it is stored, and its bias.

    Returns
    -------
    bias : (outputs,) or (1,) float64 array
        The factor beta included; zero where the layer has none.
    """
    node = model.node(linear.node)
    if linear.bias is None:
        return node.inputs[1].values, np.zeros(1)
    if linear.recurrent:
        halves = node.inputs[3].values.astype(np.float64)  # of the input's and the state's products
        return node.inputs[1].values, halves[:, : halves.shape[1] // 2].ravel()
    return node.inputs[1].values, node.inputs[2].values.astype(np.float64).ravel() * linear.beta


def set_layer(model: Model, linear: Linear, weight: np.ndarray, bias: np.ndarray) -> bool:
    """Replace a layer's weight and bias; a bias is added where it has none.

    Nothing changes if a number is not finite in the type that the layer has.

    Parameters
    ----------
    weight : array of the shape and dtype of the present weight
    bias : (outputs,) float64 array

    Returns
    -------
    bool
        Whether the layer was changed.
    """
    node = model.node(linear.node)
    found = bias_behind(model, node) if linear.op == "MatMul" else None
    if found is None:
        bias = cast(bias / linear.beta, weight.dtype)
    else:
        old = found[0].inputs[found[1]]
        bias = cast(old.values.astype(np.float64) + bias, old.values.dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return False
    set_weight(model, linear, weight)
    if found is not None:
        found[0].inputs[found[1]] = _constant(model, old, bias)
        return True
    if linear.op == "MatMul":
        _add_behind(model, node, bias)
        return True
    if linear.recurrent:
        _set_recurrent_bias(model, linear, bias.reshape(weight.shape[:2]))
        return True
    if linear.bias is not None:
        node.inputs[2] = _constant(model, node.inputs[2], bias)
    else:
        # An empty name may stand for the bias.
        constant = gs.Constant(model.unused(f"{linear.y}_bias"), bias)
        node.inputs = [*node.inputs[:2], constant]
    return True


def set_weight(model: Model, linear: Linear, weight: np.ndarray) -> None:
    """Replace a layer's weight alone; the constant becomes its own."""
    node = model.node(linear.node)
    node.inputs[1] = _constant(model, node.inputs[1], weight)


def has_plain_bias(model: Model, linear: Linear) -> bool:
    """Whether a layer's bias is, or may become, one number per output."""
    if linear.recurrent:
        return True
    if linear.beta == 0 or linear.bias is None:
        return linear.beta != 0
    shape = model.constants()[linear.bias].shape
    return len(shape) <= 2 and (len(shape) < 2 or shape[0] == 1)


def bias_behind(model: Model, node: gs.Node) -> tuple[gs.Node, int] | None:
    """Find the constant vector that is added to a MatMul's result: the Add node and its input."""
    result = node.outputs[0]
    reader = only_reader(model, result)
    if reader is None or reader.op != "Add":
        return None
    place, other = next(((i, t) for i, t in enumerate(reader.inputs) if t is not result), (0, None))
    if not isinstance(other, gs.Constant) or len(other.shape) != 1:
        return None
    same = other.shape[0] == node.inputs[1].shape[-1]
    return (reader, place) if same else None


def remember(model: Model) -> Callable[[], None]:
    """Return a function that gives all nodes the inputs and constants that they have now."""
    inputs = [(node, list(node.inputs)) for node in model.nodes]
    values = [(constant, constant.values) for constant in model.constants().values()]

    def undo() -> None:
        for node, tensors in inputs:
            if list(map(id, node.inputs)) != list(map(id, tensors)):
                node.inputs = tensors
        for constant, array in values:
            constant.values = array

    return undo


def _constant(model: Model, old: gs.Constant, values: np.ndarray) -> gs.Constant:
    """Return a constant to use instead of `old`: itself, unless other nodes read it too."""
    if len(old.outputs) == 1:
        old.values = values
        return old
    return gs.Constant(model.unused(old.name), values)


def _set_recurrent_bias(model: Model, linear: Linear, bias: np.ndarray) -> None:
    """Replace the half of a recurrent layer's bias that belongs to its input, (directions, n)."""
    node = model.node(linear.node)
    results = bias.shape[1]
    if linear.bias is not None:
        old = node.inputs[3]
        both = np.concatenate([bias, old.values[:, results:]], axis=1)
        node.inputs[3] = _constant(model, old, both)
        return
    both = np.concatenate([bias, np.zeros_like(bias)], axis=1)
    constant = gs.Constant(model.unused(f"{linear.node}_bias"), both)
    node.inputs = [*node.inputs[:3], constant, *node.inputs[4:]]


def _add_behind(model: Model, node: gs.Node, bias: np.ndarray) -> None:
    """Give a MatMul a bias by a new Add node."""
    result = node.outputs[0]
    raw = gs.Variable(model.unused(f"{result.name}_without_bias"), result.dtype)
    constant = gs.Constant(model.unused(f"{result.name}_bias"), bias)
    node.outputs[0] = raw
    name = f"{model.keys[id(node)]}_bias"
    model.insert(gs.Node("Add", name, {}, [raw, constant], [result]), node, behind=True)
