"""Models whose large weights lie beside the proto, as arrays in memory or mapped from files.

A protobuf message holds 2 GB, and whatever copies a message copies the weights in it. Here a large
initializer has no data in the proto: it is marked as external, and `LightModel.weights` has its
values by name. So protos are copied, cut and serialized for next to nothing, and weights exist
once, for as long as a model or a graph holds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_reap.onnxio.dtypes import is_native, nbytes, to_numpy
from onnx_reap.onnxio.extract import names_in_subgraphs
from onnx_reap.onnxio.mapped_files import WeightFile

SMALLEST = 1024
"""Bytes from which on a weight lies beside the proto; shapes and scalars stay in it."""

ALIGNMENT = 64
"""Bytes; in a file weights begin at multiples, where vector units like them."""

ENTRIES = 64
"""Bytes that it takes at most to say where a weight begins and how long it is."""

_LOCATION = "LightModel.weights, by its name"
"""What the proto gives as the file of a weight, which nobody reads."""


@dataclass(frozen=True)
class LightModel:
    """A model, and those of its weights that its proto only names."""

    # Initializers that are marked as external data have their values in `weights`
    proto: onnx.ModelProto = field(repr=False)
    # C-contiguous arrays by name of the initializer, not to be changed in place. There may be some
    # that the proto doesn't name.
    weights: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    # Files that weights are mapped from; they have to stay as they are
    sources: tuple[WeightFile, ...] = ()
    # Whether weights beside the proto go into a file of their own, not into the model's
    own_file: bool = False

    @classmethod
    def of(cls, model: onnx.ModelProto | LightModel) -> LightModel:
        """Return a model as it is, or one whose proto holds all."""
        return model if isinstance(model, LightModel) else cls(model)

    @property
    def graph(self) -> onnx.GraphProto:
        """The graph of the proto."""
        return self.proto.graph

    @property
    def opset(self) -> int:
        """Version of the standard operator set; 0 if the model uses none of it."""
        imports = self.proto.opset_import
        return next((o.version for o in imports if o.domain in ("", "ai.onnx")), 0)

    @property
    def constants(self) -> Mapping[str, np.ndarray]:
        """The values of all initializers, each read when it is asked for."""
        return _Constants(self)

    @property
    def size(self) -> int:
        """Bytes of the model's file, or at most of both files if it is written as two."""
        if not self.own_file:
            return int(self.whole().ByteSize())
        own = [aligned(nbytes(tensor)) for tensor in self._external()]
        return int(self.proto.ByteSize()) + sum(own) + len(own) * ENTRIES

    def external(self) -> dict[str, np.ndarray]:
        """Return the values of the initializers that lie beside the proto, in its order."""
        return {tensor.name: self.weights[tensor.name] for tensor in self._external()}

    def whole(self, *, copy: bool = False) -> onnx.ModelProto:
        """Return a proto that holds all weights: the model's own if it does, or a copy."""
        if not copy and not self._external():
            return self.proto
        out = onnx.ModelProto()
        out.CopyFrom(self.proto)
        for tensor in filter(uses_external_data, out.graph.initializer):
            fill(tensor, self.weights[tensor.name].tobytes())
        return out

    def without_unread(self) -> LightModel:
        """Leave out weights beside the proto that nothing reads: sessions refuse their values."""
        read = {name for n in self.graph.node for name in (*n.input, *names_in_subgraphs(n))}
        read |= {value.name for value in self.graph.output}
        unread = {tensor.name for tensor in self._external()} - read
        if not unread:
            return self
        out = onnx.ModelProto()
        out.CopyFrom(self.proto)
        for kind in ("initializer", "input"):  # where IR version 3 lists them, too
            kept = [each for each in getattr(out.graph, kind) if each.name not in unread]
            out.graph.ClearField(kind)
            getattr(out.graph, kind).extend(kept)
        return replace(self, proto=out)

    def with_weights_as_inputs(self) -> onnx.ModelProto:
        """Return a proto whose external weights are inputs, for what reads shapes alone."""
        external = self._external()
        if not external:
            return self.proto
        out = onnx.ModelProto()
        out.CopyFrom(self.proto)
        listed = {value.name for value in out.graph.input}
        del out.graph.initializer[:]
        out.graph.initializer.extend(
            tensor for tensor in self.graph.initializer if not uses_external_data(tensor)
        )
        out.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in external
            if tensor.name not in listed
        )
        return out

    def inferred_types(
        self, nodes: Sequence[onnx.NodeProto] | None = None
    ) -> dict[str, onnx.TypeProto]:
        """Return the types of tensors, as far as onnx knows them.

        Parameters
        ----------
        nodes : sequence of onnx.NodeProto, optional
            Instead of the model's own.
        """
        model = self.with_weights_as_inputs()
        if nodes is not None:
            whole, model = model, onnx.ModelProto()
            model.CopyFrom(whole)
            del model.graph.node[:]
            model.graph.node.extend(nodes)
        try:
            graph = onnx.shape_inference.infer_shapes(model).graph
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
            graph = model.graph  # what is wrong with it is told when it is run
        values = (*graph.input, *graph.value_info, *graph.output)
        return {
            tensor.name: onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            for tensor in graph.initializer
        } | {value.name: value.type for value in values}

    def check_unchanged(self) -> None:
        """Refuse a model if files that its weights are mapped from changed."""
        for source in self.sources:
            source.check_unchanged()

    def _external(self) -> list[TensorProto]:
        return [tensor for tensor in self.graph.initializer if uses_external_data(tensor)]


class _Constants(Mapping[str, np.ndarray]):
    def __init__(self, model: LightModel) -> None:
        self._weights = model.weights
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        return self._weights[name] if uses_external_data(tensor) else numpy_helper.to_array(tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def lies_beside(dtype: np.dtype, size: int) -> bool:
    """Whether a weight of so many bytes may lie beside the proto: large, of NumPy's own numbers.

    Integers of 32 and 64 bits don't: they may be sizes, which shape inference reads in the proto.
    """
    sizes = np.dtype(dtype).kind in "iu" and np.dtype(dtype).itemsize >= 4
    return is_native(dtype) and not sizes and size >= SMALLEST


def external_initializer(
    name: str, kind: int, shape: Collection[int], text: str = ""
) -> TensorProto:
    """Return an initializer, of an ONNX type, documented or not, with values beside the proto."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape)
    if text:
        tensor.doc_string = text
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=_LOCATION)
    return tensor


def fill(tensor: TensorProto, data: bytes) -> None:
    """Put the bytes of a tensor that are elsewhere into it."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = data


def without_weights(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Copy a model without its large initializers; return their values, too."""
    light, weights = onnx.ModelProto(), dict[str, np.ndarray]()
    copy_fields(proto, light, ("graph",))
    copy_fields(proto.graph, light.graph, ("initializer",))
    uses = Counter(tensor.name for tensor in proto.graph.initializer)
    for tensor in proto.graph.initializer:
        inside = uses_external_data(tensor) or uses[tensor.name] > 1
        if not inside and lies_beside(to_numpy(tensor.data_type), nbytes(tensor)):
            weights[tensor.name] = np.ascontiguousarray(numpy_helper.to_array(tensor))
            tensor = external_initializer(
                tensor.name, tensor.data_type, tensor.dims, tensor.doc_string
            )
        light.graph.initializer.append(tensor)
    return light, weights


def copy_fields(source: Message, target: Message, without: Collection[str]) -> None:
    """Copy all fields of a message that are set, but for some."""
    for described, value in source.ListFields():
        name = described.name
        if name in without:
            continue
        if described.is_repeated:
            getattr(target, name).extend(value)
        elif described.message_type is not None:
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)


def aligned(at: int) -> int:
    """Return the next place in a file where a weight may begin."""
    return -(-at // ALIGNMENT) * ALIGNMENT
