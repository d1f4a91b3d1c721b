"""Models in other floating-point types, made from those in float32."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh


def converted(proto: onnx.ModelProto, dtype, *, keep_io: bool = False) -> onnx.ModelProto:
    """Convert the weights of a model, and its inputs and outputs too, or casts at both ends."""
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    graph = out.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(dtype), tensor.name))
    for node in graph.node:
        for attribute in (a for a in node.attribute if a.t.data_type == onnx.TensorProto.FLOAT):
            values = onnx.numpy_helper.to_array(attribute.t).astype(dtype)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(values))
    if not keep_io:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.elem_type = kind
        return out
    renamed = {v.name: f"{v.name}_{np.dtype(dtype).name}" for v in (*graph.input, *graph.output)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    first = [oh.make_node("Cast", [v.name], [renamed[v.name]], to=kind) for v in graph.input]
    last = [oh.make_node("Cast", [renamed[v.name]], [v.name], to=1) for v in graph.output]
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    return out
