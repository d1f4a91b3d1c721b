"""Reading and writing the weights of a layer in the graph."""

from collections.abc import Callable, Sequence

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


def bias_numbers(model: Model, layers: Sequence[Linear]) -> list[int]:
    """Tell which layers that share a weight share a bias too, by equal numbers.

    Layers without any will share the one that they are given.
    """
    held = [_held_bias(model, layer) for layer in layers]
    ids = [None if each is None else id(each[0].inputs[each[1]]) for each in held]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(ids))}
    return [numbers[key] for key in ids]


def set_layer(model: Model, linear: Linear, weight: np.ndarray, bias: np.ndarray) -> bool:
    """Replace the weight and bias of a layer that shares none, see `set_layers`."""
    return set_layers(model, [linear], weight, [bias])


def set_layers(
    model: Model, layers: Sequence[Linear], weight: np.ndarray, biases: Sequence[np.ndarray]
) -> bool:
    """Replace the weight of layers that share it, and their biases; add those that lack.

    Nothing changes if a number is not finite in the type that the layers have.

    Parameters
    ----------
    weight : array of the shape and dtype of the present weight
    biases : sequence of (outputs,) float64 arrays
        Equal where `bias_numbers` are.

    Returns
    -------
    bool
        Whether the layers were changed.
    """
    numbers = bias_numbers(model, layers)
    new = [
        _stored_bias(model, layer, bias, weight.dtype)
        for layer, bias in zip(layers, biases, strict=True)
    ]
    if not all(np.isfinite(array).all() for array in (weight, *new)):
        return False
    shared = _constant(model, model.node(layers[0].node).inputs[1], weight, len(layers))
    for layer in layers:
        model.node(layer.node).inputs[1] = shared
    made: dict[int, gs.Constant] = {}
    for layer, bias, number in zip(layers, new, numbers, strict=True):
        if layer.recurrent:
            _set_recurrent_bias(model, layer, bias.reshape(weight.shape[:2]))
            continue
        held = _held_bias(model, layer)
        if number not in made and held is not None:
            old = held[0].inputs[held[1]]
            made[number] = _constant(model, old, bias, numbers.count(number))
        elif number not in made:
            made[number] = gs.Constant(model.unused(f"{layer.y}_bias"), bias)
        _put_bias(model, layer, held, made[number])
    return True


def _held_bias(model: Model, layer: Linear) -> tuple[gs.Node, int] | None:
    """Return the node and its input that hold a layer's bias; None where it has none."""
    node = model.node(layer.node)
    if layer.op == "MatMul":
        return bias_behind(model, node)
    place = 3 if layer.recurrent else 2
    return None if layer.bias is None else (node, place)


def _stored_bias(model: Model, layer: Linear, bias: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return what is to be stored for a layer to have a bias."""
    found = _held_bias(model, layer) if layer.op == "MatMul" else None
    if found is None:
        return cast(bias / layer.beta, dtype)
    old = found[0].inputs[found[1]]
    return cast(old.values.astype(np.float64) + bias, old.values.dtype)


def _put_bias(
    model: Model, layer: Linear, held: tuple[gs.Node, int] | None, bias: gs.Constant
) -> None:
    if held is not None:
        held[0].inputs[held[1]] = bias
    elif layer.op == "MatMul":
        _add_behind(model, model.node(layer.node), bias)
    else:  # an empty name may stand for the bias
        node = model.node(layer.node)
        node.inputs = [*node.inputs[:2], bias]


def set_weight(model: Model, linear: Linear, weight: np.ndarray) -> None:
    """Replace a layer's weight alone; the constant becomes its own."""
    node = model.node(linear.node)
    node.inputs[1] = _constant(model, node.inputs[1], weight)


def set_recurrent(
    model: Model, key: str, weight: np.ndarray, recurrent: np.ndarray, bias: np.ndarray
) -> bool:
    """Replace all weights of a recurrent layer; return whether its type can hold them.

    Parameters
    ----------
    weight, recurrent : arrays of the present shapes
    bias : array, (directions, 2, results)
        Of the products with the input, and with the state.
    """
    node = model.node(key)
    dtype = node.inputs[1].dtype
    new = [cast(np.ascontiguousarray(x), dtype) for x in (weight, recurrent, bias)]
    if not all(np.isfinite(array).all() for array in new):
        return False
    for place, values in enumerate(new[:2], 1):
        node.inputs[place] = _constant(model, node.inputs[place], values)
    _put_recurrent_bias(model, node, new[2].reshape(len(bias), -1))
    return True


def has_plain_bias(model: Model, linear: Linear) -> bool:
    """Whether a layer's bias is, or may become, one number per output."""
    if linear.recurrent:
        return True
    if linear.beta == 0 or linear.bias is None:
        return linear.beta != 0
    shape = model.node(linear.node).inputs[2].shape  # a refit may have given it another name
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
    """Return a function that gives a model the nodes and constants that it has now."""
    nodes, names = model.nodes, model.names()
    tensors = [(node, list(node.inputs), list(node.outputs)) for node in nodes]
    values = [(constant, constant.values) for constant in model.constants().values()]
    present = set(map(id, nodes))

    def undo() -> None:
        for node in model.nodes:
            if id(node) not in present:
                node.inputs.clear()
                node.outputs.clear()
        model.graph.nodes = list(nodes)
        for node, inputs, outputs in tensors:
            if not _same(node.inputs, inputs):
                node.inputs = list(inputs)
            if not _same(node.outputs, outputs):
                node.outputs = list(outputs)
        for constant, array in values:
            constant.values = array
        names()

    return undo


def _same(a: Sequence[gs.Tensor], b: Sequence[gs.Tensor]) -> bool:
    return list(map(id, a)) == list(map(id, b))


def _constant(model: Model, old: gs.Constant, values: np.ndarray, uses: int = 1) -> gs.Constant:
    """Return a constant to use instead of `old`: itself, unless it has more than so many uses."""
    if len(old.outputs) == uses:
        old.values = values
        return old
    return gs.Constant(model.unused(old.name), values)


def _set_recurrent_bias(model: Model, linear: Linear, bias: np.ndarray) -> None:
    """Replace the half of a recurrent layer's bias that belongs to its input, (directions, n)."""
    node = model.node(linear.node)
    given = [t.values[:, bias.shape[1] :] for t in node.inputs[3:4] if t.name]
    other = given[0] if given else np.zeros_like(bias)
    _put_recurrent_bias(model, node, np.concatenate([bias, other], axis=1))


def _put_recurrent_bias(model: Model, node: gs.Node, both: np.ndarray) -> None:
    old = next((tensor for tensor in node.inputs[3:4] if tensor.name), None)
    name = model.unused(f"{model.keys[id(node)]}_bias") if old is None else old.name
    new = gs.Constant(name, both) if old is None else _constant(model, old, both)
    node.inputs = [*node.inputs[:3], new, *node.inputs[4:]]


def _add_behind(model: Model, node: gs.Node, bias: gs.Constant) -> None:
    """Give a MatMul a bias by a new Add node."""
    result = node.outputs[0]
    raw = gs.Variable(model.unused(f"{result.name}_without_bias"), result.dtype)
    node.outputs[0] = raw
    name = f"{model.keys[id(node)]}_bias"
    model.insert(gs.Node("Add", name, {}, [raw, bias], [result]), node, behind=True)
