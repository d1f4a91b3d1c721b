"""Putting fitted weights into the graph."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.model import Model
from onnx_reap.graph.records import Linear


def current_bias(model: Model, linear: Linear, outputs: int) -> np.ndarray:
    """Return a layer's bias as (outputs,) float64, zeros where it has none."""
    if linear.bias is None:
        return np.zeros(outputs)
    values = model.constants()[linear.bias].values.astype(np.float64) * linear.beta
    return np.broadcast_to(values.reshape(-1) if values.ndim < 2 else values[0], (outputs,)).copy()


def set_layer(model: Model, linear: Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    """Replace a layer's weight and bias; a bias is added where it has none.

    Parameters
    ----------
    weight : array of the shape and dtype of the present weight
    bias : (outputs,) float64 array
    """
    node = next(n for n in model.nodes if model.keys[id(n)] == linear.node)
    node.inputs[1] = _constant(model, node.inputs[1], weight)
    if linear.op == "MatMul":
        _add_behind(model, node, bias, weight.dtype)
        return
    bias = (bias / linear.beta).astype(weight.dtype)
    if linear.bias is not None:
        node.inputs[2] = _constant(model, node.inputs[2], bias)
    else:
        if len(node.inputs) > 2:
            del node.inputs[2]
        node.inputs.append(gs.Constant(f"{linear.y}_bias", bias))


def _constant(model: Model, old: gs.Constant, values: np.ndarray) -> gs.Constant:
    """Return a constant to use instead of `old`: itself, unless other nodes read it too."""
    if len(old.outputs) == 1:
        old.values = values
        return old
    taken = model.constants()
    number = next(i for i in range(2, len(taken) + 3) if f"{old.name}_{i}" not in taken)
    return gs.Constant(f"{old.name}_{number}", values)


def _add_behind(model: Model, node: gs.Node, bias: np.ndarray, dtype: np.dtype) -> None:
    """Give a MatMul a bias: in the constant that is added to it, or by a new Add node."""
    result = node.outputs[0]
    reader = result.outputs[0] if len(result.outputs) == 1 else None
    if reader is not None and reader.op == "Add":
        other = next(t for t in reader.inputs if t is not result)
        if isinstance(other, gs.Constant) and tuple(other.shape) == bias.shape:
            index = list(reader.inputs).index(other)
            values = (other.values.astype(np.float64) + bias).astype(other.values.dtype)
            reader.inputs[index] = _constant(model, other, values)
            return
    raw = gs.Variable(f"{result.name}_before_bias", result.dtype)
    constant = gs.Constant(f"{result.name}_bias", bias.astype(dtype))
    node.outputs[0] = raw
    add = gs.Node("Add", f"{model.keys[id(node)]}_bias", {}, [raw, constant], [result])
    model.graph.nodes.insert(model.graph.nodes.index(node) + 1, add)
    model.keys[id(add)] = add.name
