"""What every part of a model's file must satisfy before anything else looks at it.

onnx.checker says nothing of tensors whose data doesn't fill their shape nor of names that are no
text, and what reads these later fails where a user can't tell why.
"""

from collections.abc import Container, Iterable, Iterator
from math import prod

import onnx
from onnx import AttributeProto, TensorProto
from onnx.external_data_helper import uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import bits, exists
from onnx_reap.onnxio.extract import graphs

OWN = ("", "ai.onnx")


def check_parts(model: onnx.ModelProto, label: str, beside: Container[str] = ()) -> None:
    """Refuse what is broken: tensors, types, names, nodes that lack inputs."""
    _check_texts(model, label)
    for version in (e.version for part in (model, *model.functions) for e in part.opset_import):
        if not 0 < version < 2**31:
            raise ReapError(
                f"{label}: an operator set that can't be",
                got=f"version {version}",
                expected="a number from 1 on",
            )
    opset = _opset(model.opset_import)
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_name(value.name, f"{label}: a tensor's name")
            _check_type(value, label)
        _check_nodes(graph.node, label, opset)
        for attribute in (each for node in graph.node for each in node.attribute):
            if attribute.ref_attr_name:
                raise ReapError(
                    f"{label}: attribute {attribute.name} refers to an attribute of a function",
                    got=f"{attribute.ref_attr_name}, outside of any function",
                    expected="a value",
                )
        _check_tensors(graph, label, beside)
    for function in model.functions:
        _check_nodes(function.node, label, _opset(function.opset_import))
        body = onnx.GraphProto(node=function.node)
        for graph in graphs(body):
            _check_tensors(graph, label)


def _check_texts(model: onnx.ModelProto, label: str) -> None:
    """Refuse texts beside the graph that are none."""
    for part in (model, *model.opset_import, *model.metadata_props, *model.functions):
        for described in part.DESCRIPTOR.fields:
            if described.type == described.TYPE_STRING:
                value = getattr(part, described.name)
                for text in value if described.is_repeated else [value]:
                    _check_name(text, f"{label}: {described.name}")


def _check_nodes(nodes: Iterable[onnx.NodeProto], label: str, opset: int) -> None:
    made: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _check_name(name, f"{label}: a node's or tensor's name")
        _check_attributes(node, label)
        fewest = _fewest_inputs(node, opset)
        if len(node.input) < fewest:
            raise ReapError(
                f"{label}: node {_called(node)} lacks inputs",
                got=f"{len(node.input)} of {node.op_type}",
                expected=f"at least {fewest}",
            )
        for name in filter(None, node.output):
            if name in made:
                raise ReapError(
                    f"{label}: two nodes make one tensor",
                    got=f"{name} of {_called(made[name])} and of {_called(node)}",
                    expected="a name of its own for every tensor",
                )
            made[name] = node


def _called(node: onnx.NodeProto) -> str:
    return str(node.name or node.op_type)


def _opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    return max((each.version for each in imports if each.domain in OWN), default=0)


def _fewest_inputs(node: onnx.NodeProto, opset: int) -> int:
    if node.domain not in OWN or not onnx.defs.has(node.op_type):
        return 0
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, "").min_input)
    except onnx.defs.SchemaError:  # a later operator
        return 0


def _check_tensors(graph: onnx.GraphProto, label: str, beside: Container[str] = ()) -> None:
    for tensor in tensors(graph):
        _check_name(tensor.name, f"{label}: a tensor's name")
        if not (uses_external_data(tensor) and tensor.name in beside):
            _check_tensor(tensor, label)
    for sparse in sparse_tensors(graph):
        _check_sparse(sparse, label)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the initializers and the tensors in attributes."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
    for sparse in sparse_tensors(graph):
        yield from (sparse.values, sparse.indices)


def sparse_tensors(graph: onnx.GraphProto) -> Iterator[onnx.SparseTensorProto]:
    """Yield the sparse initializers and the sparse tensors in attributes."""
    yield from graph.sparse_initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == AttributeProto.SPARSE_TENSOR:
            yield attribute.sparse_tensor
        yield from attribute.sparse_tensors


def _check_name(name: str | bytes, what: str) -> None:
    if isinstance(name, bytes):  # what protobuf returns for text that is not UTF-8
        raise ReapError(f"{what} is no text", got=repr(name), expected="UTF-8")


def _check_attributes(node: onnx.NodeProto, label: str) -> None:
    for attribute in node.attribute:
        what = f"{label}: an attribute of node {_called(node)}"
        _check_name(attribute.name, what)
        for text in (attribute.s, *attribute.strings):
            if not _is_text(text):
                got = f"{attribute.name} {text!r:.80}"
                raise ReapError(f"{what} is no text", got=got, expected="UTF-8")


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_type(value: onnx.ValueInfoProto, label: str) -> None:
    """Refuse an element type that doesn't exist; none at all is fine here."""
    of = value.type
    tensors = (of.tensor_type, of.sparse_tensor_type, of.sequence_type.elem_type.tensor_type)
    for kind in (tensor.elem_type for tensor in tensors):
        if not exists(kind):
            raise _unknown(f"{label}: tensor {value.name}", kind)


def _check_tensor(tensor: onnx.TensorProto, label: str) -> None:
    what, kind = f"{label}: tensor {tensor.name or 'of an attribute'}", tensor.data_type
    check_kind(tensor, label)
    if any(size < 0 for size in tensor.dims):
        got = f"shape {list(tensor.dims)}"
        raise ReapError(f"{what} has a negative size", got=got, expected="an undamaged file")
    if uses_external_data(tensor):
        raise ReapError(
            f"{what}: its data lies in another file",
            hint="pass the path of the model, or load it with its external data",
        )
    if tensor.HasField("raw_data"):
        name, count = TensorProto.DataType.Name(kind), prod(tensor.dims)
        if kind == TensorProto.STRING:
            raise ReapError(f"{what} holds text as bytes", got="raw_data", expected="string_data")
        held, wanted = len(tensor.raw_data), -(-count * bits(kind) // 8)
        if held != wanted:
            raise ReapError(
                f"{what}: its data doesn't fill its shape",
                got=f"{held:,} bytes for {name.lower()} {list(tensor.dims)}",
                expected=f"{wanted:,} bytes, as in an undamaged file",
            )
        return
    try:
        onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ReapError(
            f"{what}: its data doesn't fill its shape", got=str(error), expected="an undamaged file"
        ) from None


def _check_sparse(sparse: onnx.SparseTensorProto, label: str) -> None:
    """Refuse values whose places are not within the shape, or are more or fewer."""
    what, shape = f"{label}: sparse tensor {sparse.values.name or 'of an attribute'}", sparse.dims
    places = onnx.numpy_helper.to_array(sparse.indices)
    count = prod(sparse.values.dims)
    flat = places.shape == (count,)
    if not (flat or places.shape == (count, len(shape))) or places.dtype.kind != "i":
        got = f"{count} values, indices {places.dtype} {list(places.shape)}"
        raise ReapError(f"{what} is broken", got=got, expected="an index for every value")
    limits = [prod(shape)] if flat else list(shape)
    if min(shape, default=0) < 0 or (places < 0).any() or (places >= limits).any():
        got = f"indices outside of shape {list(shape)}"
        raise ReapError(f"{what} is broken", got=got, expected="indices within it")


def check_kind(tensor: onnx.TensorProto, label: str) -> None:
    """Refuse a tensor of a type that doesn't exist.

    Raises
    ------
    ReapError
    """
    if not exists(tensor.data_type) or tensor.data_type == TensorProto.UNDEFINED:
        raise _unknown(f"{label}: tensor {tensor.name or 'of an attribute'}", tensor.data_type)


def _unknown(what: str, kind: int) -> ReapError:
    return ReapError(
        f"{what} is of an unknown type",
        got=f"data type {kind}",
        expected=f"one that onnx {onnx.__version__} knows",
    )
