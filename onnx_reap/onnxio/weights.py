"""Writing changed weights into a model that stays as it is otherwise, node by node."""

from collections.abc import Mapping

import numpy as np
import onnx


def with_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Copy a model with other values for some constants of the same shape.

    Parameters
    ----------
    weights : mapping of str to numpy.ndarray
        By name of the tensor: an initializer, the output of a Constant node, or what other nodes
        compute from constants. The last kind is not recomputed; its readers read a new
        initializer instead, and all nodes stay.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    left = dict(weights)
    for tensor in out.graph.initializer:
        if tensor.name in left:
            filled = onnx.numpy_helper.from_array(left.pop(tensor.name), tensor.name)
            filled.doc_string = tensor.doc_string
            tensor.CopyFrom(filled)
    for node in out.graph.node:
        if node.op_type == "Constant" and node.output[0] in left:
            value = onnx.numpy_helper.from_array(left.pop(node.output[0]))
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", value))
    taken = {name for node in out.graph.node for name in (*node.input, *node.output)}
    for name, values in left.items():
        new = next(n for i in range(len(taken) + 1) if (n := f"{name}_masked_{i}") not in taken)
        out.graph.initializer.append(onnx.numpy_helper.from_array(values, new))
        for node in out.graph.node:
            node.input[:] = [new if n == name else n for n in node.input]
    return out
