"""The float32 copy of a model that computes in another type, to run and to measure it.

Of float16, bfloat16 and float64 a runtime has kernels for some operators only, and products of
their gradients leave the range of float16. So whatever is observed, is observed on a model of the
same nodes and tensors whose numbers are float32. What is cut and written keeps its types.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_reap.onnxio.dtypes import HALVES, WIDE
from onnx_reap.onnxio.extract import bodies_of
from onnx_reap.onnxio.light_model import LightModel, without_weights

Places = Iterator[tuple[TensorProto | AttributeProto | onnx.TypeProto.Tensor, str]]

_OF_TYPE = frozenset({"to", "dtype", "output_datatype", "output_dtype"})
"""Attributes of ONNX's own operators that name an element type."""
_OWN = ("", "ai.onnx")

Handed = Mapping[tuple[str, str], frozenset[str]]
"""By domain and name of a function, those of its attributes that name an element type inside."""


def other_types(model: onnx.ModelProto) -> frozenset[int]:
    """Return the floating-point types of a model that its float32 copy has not.

    A few numbers in float64, among sizes for instance, are left alone: such models run as they are,
    and float32 might round a size to another one.
    """
    graph = model.graph
    found = HALVES & {getattr(*place) for place in _places(model)}
    wide = [i.type.tensor_type.elem_type for i in graph.input]
    wide += [t.data_type for t in graph.initializer if len(t.dims) > 1]
    nodes = (n for n in graph.node if n.op_type == "Constant")
    wide += [a.t.data_type for n in nodes for a in n.attribute if len(a.t.dims) > 1]
    return frozenset(found | (WIDE & set(wide)))


def in_float32(model: LightModel, types: Set[int]) -> LightModel:
    """Copy a model with float32 instead of some types; without any, return the model itself.

    Numbers that are too large for float32, as masks use them, become its largest.
    """
    if not types:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    del copy.graph.value_info[:]
    weights = dict(model.weights)
    for holder, field in [p for p in _places(copy) if getattr(*p) in types]:
        if not isinstance(holder, TensorProto):
            setattr(holder, field, TensorProto.FLOAT)
        elif uses_external_data(holder):
            weights[holder.name] = to_float32(weights[holder.name])
            holder.data_type = TensorProto.FLOAT
        else:
            values = to_float32(numpy_helper.to_array(holder))
            holder.CopyFrom(numpy_helper.from_array(values, holder.name))
    light, more = without_weights(copy)  # bfloat16 lies in the proto, float32 needn't
    return replace(model, proto=light, weights=weights | more)


def to_float32(values: np.ndarray) -> np.ndarray:
    """Convert numbers; finite ones stay finite."""
    limit = np.finfo(np.float32).max
    if values.dtype == np.float64:
        values = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return values.astype(np.float32)


def _places(model: onnx.ModelProto) -> Places:
    """Yield all that holds an element type, and the name of the field."""
    handed = _handed_on(model.functions)
    yield from _in_graph(model.graph, handed)
    for function in model.functions:
        yield from _in_nodes(function.node, handed)
        names = handed[function.domain, function.name]
        yield from ((a, "i") for a in function.attribute_proto if a.name in names)


def _handed_on(functions: Sequence[onnx.FunctionProto]) -> Handed:
    """Follow attributes of functions to those of the nodes inside, other functions' included."""
    handed = {(f.domain, f.name): frozenset[str]() for f in functions}
    before: Handed = {}
    while handed != before:
        before = handed
        handed = {
            (f.domain, f.name): frozenset(
                a.ref_attr_name
                for node in f.node
                for a in node.attribute
                if a.ref_attr_name and a.name in _of_type(node, before)
            )
            for f in functions
        }
    return handed


def _of_type(node: onnx.NodeProto, handed: Handed) -> frozenset[str]:
    """Return the names of a node's attributes that name an element type, so far as is known."""
    return _OF_TYPE if node.domain in _OWN else handed.get((node.domain, node.op_type), frozenset())


def _in_graph(graph: onnx.GraphProto, handed: Handed) -> Places:
    yield from ((tensor, "data_type") for tensor in graph.initializer)
    yield from ((sparse.values, "data_type") for sparse in graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from _in_type(value.type)
    yield from _in_nodes(graph.node, handed)


def _in_type(kind: onnx.TypeProto) -> Places:
    held = kind.WhichOneof("value")
    if held in ("tensor_type", "sparse_tensor_type"):
        yield getattr(kind, held), "elem_type"
    elif held in ("sequence_type", "optional_type"):
        yield from _in_type(getattr(kind, held).elem_type)


def _in_nodes(nodes: Iterable[onnx.NodeProto], handed: Handed) -> Places:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _of_type(node, handed):
                yield attribute, "i"
            tensors = [attribute.t] if attribute.HasField("t") else []
            sparse = [attribute.sparse_tensor.values] if attribute.HasField("sparse_tensor") else []
            yield from ((tensor, "data_type") for tensor in (*tensors, *sparse, *attribute.tensors))
        for body in bodies_of(node):
            yield from _in_graph(body, handed)
