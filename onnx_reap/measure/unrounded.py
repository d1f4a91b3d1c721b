"""A quantised model without its rounding: its activations are clipped, and real numbers.

Two models that are the same function differ by rounding, which a step of quantisation turns into
more, at every layer. Without the steps they can be compared.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.extract import names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.quantiser import Quantiser, quantiser_of

Shapes = Mapping[str, tuple[int, ...]]


def unrounded(model: LightModel, shapes: Shapes) -> LightModel:
    """Copy a model without rounding wherever integers go right back to real numbers.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of tensors; only ranks matter.
    """
    nodes, taken = model.graph.node, {value.name for value in model.graph.output}
    taken |= {name for node in nodes for name in names_in_subgraphs(node)}
    readers = Counter(name for node in nodes for name in node.input)
    constants, quantisers, back = model.constants, dict[str, Quantiser](), Counter[str]()
    for node in nodes:
        if Trait.QUANTISES | Trait.POINTWISE in traits_of(node.op_type):
            found = quantiser_of(node, constants, len(shapes[node.input[0]]))
            if found is not None:
                quantisers[node.output[0]] = found
                back[node.input[0]] += node.op_type == "DequantizeLinear"
    closed = {
        node.output[0]
        for node in nodes
        if node.op_type == "QuantizeLinear"
        and node.output[0] in quantisers.keys() - taken
        and readers[node.output[0]] == back[node.output[0]]
    }
    if not closed:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    del copy.graph.node[:], copy.graph.value_info[:]
    for node in nodes:
        found = quantisers.get(node.output[0]) if node.output else None
        if found is not None and closed & {node.output[0], node.input[0]}:
            for part in _parts(node, found):
                is_constant = isinstance(part, onnx.TensorProto)
                (copy.graph.initializer if is_constant else copy.graph.node).append(part)
        else:
            copy.graph.node.append(node)
    return replace(model, proto=copy)


def _parts(node: NodeProto, q: Quantiser) -> Iterator[NodeProto | onnx.TensorProto]:
    """Write a node in real numbers."""
    x, y = node.input[0], node.output[0]
    numbers = {"scale": q.scale, "zero": q.zero, "low": np.array(q.low), "high": np.array(q.high)}
    names = {role: f"{y}/unrounded/{role}" for role in numbers}
    yield from (
        numpy_helper.from_array(values.astype(np.float32), names[role])
        for role, values in numbers.items()
    )
    if node.op_type == "QuantizeLinear":
        steps = [f"{y}/unrounded/{part}" for part in ("steps", "shifted", "raised")]
        yield helper.make_node("Div", [x, names["scale"]], [steps[0]])
        yield helper.make_node("Add", [steps[0], names["zero"]], [steps[1]])
        yield helper.make_node("Max", [steps[1], names["low"]], [steps[2]])
        yield helper.make_node("Min", [steps[2], names["high"]], [y])
    else:
        steps = [f"{y}/unrounded/steps"]
        yield helper.make_node("Sub", [x, names["zero"]], steps)
        yield helper.make_node("Mul", [steps[0], names["scale"]], [y])
