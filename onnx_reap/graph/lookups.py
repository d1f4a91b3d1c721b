"""What a model looks integers and texts of its inputs up in: how many there are to choose from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.data import InputSpec
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import is_integer
from onnx_reap.onnxio.light_model import LightModel

Shapes = Mapping[str, Sequence[int | None]]


def with_lookups(light: LightModel, inputs: Sequence[InputSpec]) -> list[InputSpec]:
    """Tell of inputs what the model looks their values up in, as far as shapes are known."""
    cast = {node.input[0] for node in light.graph.node if node.op_type == "Cast"}
    numbers_or_texts = [s for s in inputs if is_integer(s.dtype) or s.is_text]
    if not numbers_or_texts and not any(spec.name in cast for spec in inputs):
        return list(inputs)
    graph = _inferred(light, inputs)
    shapes, numbers = _shapes(graph), _numbers(light)
    return [replace(spec, lookup=_lookup(graph, spec, shapes, numbers)) for spec in inputs]


def _lookup(
    graph: onnx.GraphProto, spec: InputSpec, shapes: Shapes, numbers: Mapping[str, np.ndarray]
) -> tuple[int, int] | tuple[str, ...] | None:
    if spec.is_text:
        return next((t for node in graph.node if (t := _texts(node, spec.name))), None)
    if not is_integer(spec.dtype) and not spec.is_float:
        return None
    low, high = 0, np.inf
    for size, offset in _uses(graph, spec.name, shapes, numbers):
        low, high = max(low, -offset), min(high, size - offset)
    return (low, int(high)) if low < high < np.inf else None


def _texts(node: onnx.NodeProto, name: str) -> tuple[str, ...]:
    """Return the texts that a node knows of those that it reads."""
    if name not in node.input:
        return ()
    keys = ("keys_strings", "keys_tensor", "cats_strings", "classes_strings")
    for attribute in node.attribute:
        if attribute.name in keys:
            stored = attribute.strings or numpy_helper.to_array(attribute.t).ravel().tolist()
            return tuple(t.decode() if isinstance(t, bytes) else t for t in stored)
    return ()


def _uses(
    graph: onnx.GraphProto, name: str, shapes: Shapes, numbers: Mapping[str, np.ndarray]
) -> Iterator[tuple[int, int]]:
    """Yield the sizes that an input's numbers index, with what is added to the numbers before."""
    offsets = {name: 0}
    for node in graph.node:
        for place, tensor in enumerate(node.input):
            if tensor not in offsets:
                continue
            offset = offsets[tensor]
            if (size := _indexed(node, place, shapes, numbers)) is not None:
                yield size, offset
            elif (added := _added(node, place, numbers)) is not None:
                offsets |= dict.fromkeys(node.output, offset + added)


def _added(node: onnx.NodeProto, place: int, numbers: Mapping[str, np.ndarray]) -> int | None:
    """Return what a node adds to the numbers that it hands on; None if it does something else."""
    traits = traits_of(node.op_type)
    if Trait.CHOOSES in traits:  # exporters write: where index < 0, index + size, else index
        return 0 if place == 2 or node.op_type != "Where" else None
    moves = Trait.MOVES in traits and (place == 0 or Trait.ALONG_AXIS in traits)
    if moves or (place == 0 and node.op_type == "Clip"):
        return 0
    takes = Trait.SUBTRACTS in traits
    if not (takes or Trait.ADDS in traits) or (takes and place == 1):
        return None
    others = [numbers.get(name) for at, name in enumerate(node.input) if at != place]
    known = [int(other.item()) for other in others if other is not None and other.size == 1]
    if len(known) < len(others):
        return None
    return sum(known) * (-1 if takes else 1)


def _indexed(
    node: onnx.NodeProto, place: int, shapes: Shapes, numbers: Mapping[str, np.ndarray]
) -> int | None:
    """Return how many entries an input of a node chooses among, if it does and that is known."""
    if node.op_type == "OneHot" and place == 0:
        depth = numbers.get(node.input[1])
        return None if depth is None else int(depth.item())
    data = shapes.get(node.input[0])
    if place != 1 or not data:
        return None
    given: dict[str, int] = {a.name: a.i for a in node.attribute}
    if Trait.INDEXES in traits_of(node.op_type):
        return data[int(given.get("axis", 0))]
    if Trait.INDEXES_DEEP in traits_of(node.op_type):
        first, length = given.get("batch_dims", 0), (shapes.get(node.input[1]) or [None])[-1]
        sizes = data[first : first + (length or 1)]
        return None if None in sizes else min(size for size in sizes if size is not None)
    return None


def _inferred(light: LightModel, inputs: Sequence[InputSpec]) -> onnx.GraphProto:
    """Infer shapes from the sizes of inputs that are known."""
    proto = onnx.ModelProto()
    proto.CopyFrom(light.with_weights_as_inputs())
    sizes = {spec.name: spec.named or spec.shape for spec in inputs}
    for value in proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, sizes.get(value.name, ()), strict=False):
            if size is not None:
                dim.dim_value = size
    del proto.graph.value_info[:]  # written for whatever sizes
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    except Exception:  # whatever onnx says of operators that it doesn't know: tables are known
        return proto.graph


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | None]]:
    """Return the shapes of tensors; None for sizes that are not known."""
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {tensor.name: [*tensor.dims] for tensor in graph.initializer}
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else None for d in dims]
        for value in values
        if (dims := value.type.tensor_type.shape.dim)
    } | {name: [int(size) for size in dims] for name, dims in known.items()}


def _numbers(light: LightModel) -> dict[str, np.ndarray]:
    """Return small constants: of initializers and of Constant nodes."""
    graph, constants, found = light.graph, light.constants, dict[str, np.ndarray]()
    for tensor in graph.initializer:
        if int(np.prod(tensor.dims)) == 1:
            found[tensor.name] = constants[tensor.name]
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name in ("value_int", "value_ints"):
                value = onnx.helper.get_attribute_value(attribute)
                found[node.output[0]] = np.asarray(value, np.int64)
    return found
