"""What every part of a model's file must satisfy before anything else looks at it.

onnx.checker says nothing of tensors whose data doesn't fill their shape nor of names that are no
text, and what reads these later fails where a user can't tell why.
"""

from collections.abc import Container, Iterator
from math import prod

import onnx
from onnx import AttributeProto, TensorProto
from onnx.external_data_helper import uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import bits, exists
from onnx_reap.onnxio.extract import graphs


def check_parts(model: onnx.ModelProto, label: str, beside: Container[str] = ()) -> None:
    """Refuse tensors that are broken, types that don't exist and names that are no text."""
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_name(value.name, f"{label}: a tensor's name")
            _check_type(value, label)
        for node in graph.node:
            for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
                _check_name(name, f"{label}: a node's or tensor's name")
            _check_attributes(node, label)
        for tensor in tensors(graph):
            _check_name(tensor.name, f"{label}: a tensor's name")
            if not (uses_external_data(tensor) and tensor.name in beside):
                _check_tensor(tensor, label)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the initializers and the tensors in attributes."""
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            sparse.append(attribute.sparse_tensor)
        yield from attribute.tensors
        sparse += attribute.sparse_tensors
    for each in sparse:
        yield from (each.values, each.indices)


def _check_name(name: str | bytes, what: str) -> None:
    if isinstance(name, bytes):  # what protobuf returns for text that is not UTF-8
        raise ReapError(f"{what} is no text", got=repr(name), expected="UTF-8")


def _check_attributes(node: onnx.NodeProto, label: str) -> None:
    for attribute in node.attribute:
        what = f"{label}: an attribute of node {node.name or node.op_type}"
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
