"""Writing a graph back as ONNX, keeping what nobody touched as it was."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnx_reap.onnxio.dtypes import to_onnx
from onnx_reap.onnxio.light_model import (
    LightModel,
    copy_fields,
    external_initializer,
    lies_beside,
)


@dataclass(frozen=True)
class Source:
    """What a node was on arrival. Attributes are replaced, never edited, so identity tells."""

    node: gs.Node
    attributes: Mapping[str, object]
    proto: onnx.NodeProto

    def rewritten(self, same: Mapping[str, str]) -> onnx.NodeProto:
        """Return the node's proto with what has changed since, inputs by their other names."""
        inputs = [same.get(tensor.name, tensor.name) for tensor in self.node.inputs]
        outputs = [tensor.name for tensor in self.node.outputs]
        changed = {
            name: value
            for name, value in self.node.attrs.items()
            if value is not self.attributes.get(name)
        }
        gone = self.attributes.keys() - self.node.attrs.keys()
        if [inputs, outputs] == [self.proto.input, self.proto.output] and not changed and not gone:
            return self.proto
        out = onnx.NodeProto()
        out.CopyFrom(self.proto)
        del out.input[:], out.output[:], out.attribute[:]
        out.input.extend(inputs)
        out.output.extend(outputs)
        untouched = (a for a in self.proto.attribute if a.name not in changed.keys() | gone)
        out.attribute.extend(untouched)
        out.attribute.extend(OnnxExporter.export_attributes(changed))
        return out


def node_proto(node: gs.Node) -> onnx.NodeProto:
    """Write a new node."""
    result: onnx.NodeProto = OnnxExporter.export_node(node)
    return result


def tensor_proto(tensor: gs.Constant) -> onnx.TensorProto:
    """Write a constant: its name, type, shape and values; documentation is left out."""
    if tensor.dtype == object:  # texts
        return onnx.numpy_helper.from_array(tensor.values, tensor.name)
    result: onnx.TensorProto = OnnxExporter.export_tensor_proto(tensor)
    return result


def without_content(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without nodes and weights.

    Left out are also shape annotations and training information, which describe the old sizes.
    """
    shell = onnx.ModelProto()
    copy_fields(proto, shell, ("graph", "training_info"))
    graph = proto.graph
    shell.graph.name = graph.name
    shell.graph.doc_string = graph.doc_string
    for name in ("input", "output", "quantization_annotation", "metadata_props"):
        getattr(shell.graph, name).extend(getattr(graph, name, ()))
    return shell


def with_constants(
    out: onnx.ModelProto, constants: Iterable[gs.Constant], original: LightModel
) -> LightModel:
    """Add constants to a model as initializers, in place; list their new shapes among its inputs.

    Up to IR version 3 every initializer is an input, so new constants become nodes: the interface
    stays as it is. Large ones lie beside the proto.
    """
    known = {tensor.name for tensor in original.graph.initializer}
    weights: dict[str, np.ndarray] = {}
    made = []
    for constant in constants:
        if constant.name in known or original.proto.ir_version >= 4:
            if _lies_beside(constant):
                constant.values = np.require(constant.values, requirements=["C", "A"])
                weights[constant.name] = constant.values
                kind, shape = to_onnx(constant.values.dtype), constant.values.shape
                tensor = external_initializer(constant.name, kind, shape)
            else:
                tensor = tensor_proto(constant)
            out.graph.initializer.append(tensor)
        else:
            value = tensor_proto(constant)
            made.append(onnx.helper.make_node("Constant", [], [constant.name], value=value))
    nodes = list(out.graph.node)
    del out.graph.node[:]
    out.graph.node.extend([*made, *nodes])
    tensors = {tensor.name: tensor for tensor in out.graph.initializer}
    inputs = [i for i in out.graph.input if i.name in tensors or i.name not in known]
    declared = [
        onnx.helper.make_tensor_value_info(i.name, tensors[i.name].data_type, tensors[i.name].dims)
        if i.name in tensors
        else i
        for i in inputs
    ]
    del out.graph.input[:]
    out.graph.input.extend(declared)
    return LightModel(out, weights, original.sources, original.own_file)


def _lies_beside(constant: gs.Constant) -> bool:
    values = constant.values
    return values.dtype == constant.export_dtype and lies_beside(values.dtype, values.nbytes)
