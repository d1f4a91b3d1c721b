"""Models of older operator sets, as ones of the set that gradients are written in."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.measure.autodiff.tape import PREFIX, opset
from onnx_reap.onnxio.light_model import LightModel

OLDEST_REWRITTEN = 7
"""Operator set from which additions broadcast as they do now."""

WRITTEN_IN = 11
"""Operator set in which all nodes that rules write exist."""

CONSTANTS_APART = 4
"""Version of the format in which constants need not be listed among the inputs."""

MOVED: Mapping[str, Mapping[str, type]] = {
    "Clip": {"min": np.float32, "max": np.float32},
    "Pad": {"pads": np.int64, "value": np.float32},
    "Slice": {"starts": np.int64, "ends": np.int64, "axes": np.int64},
}
"""Attributes that are inputs by now, in their order behind the first one."""

SAME = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Concat",
        "Constant",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "Dropout",
        "Equal",
        "Flatten",
        "Gather",
        "Gemm",
        "Greater",
        "Hardmax",
        "Less",
        "LogSoftmax",
        "MatMul",
        "Max",
        "MaxPool",
        "Mean",
        "Min",
        "PRelu",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Softmax",
        "Split",
        "Squeeze",
        "Sum",
        "Unsqueeze",
    }
)
"""Operators that take more types, shapes or attributes by now, and mean what they did."""


def as_written(part: LightModel) -> LightModel:
    """Return a model that computes the same in an operator set that gradients can be written in.

    The model itself if it is as new, or uses what there is no longer.
    """
    version = opset(part)
    if not OLDEST_REWRITTEN <= version < WRITTEN_IN:
        return part
    if _holds_doubles(part.graph):  # constants of their nodes would have to be so, too
        return part
    out = onnx.ModelProto()
    out.CopyFrom(part.proto)
    for node in out.graph.node:
        if not _renew(node, version, out.graph):
            return part
    for used in out.opset_import:
        if used.domain in STANDARD_DOMAINS:
            used.version = WRITTEN_IN
    out.ir_version = max(out.ir_version, CONSTANTS_APART)
    return replace(part, proto=out)


def _holds_doubles(graph: onnx.GraphProto) -> bool:
    """Whether anything in a graph, as given or made by a node, is in float64."""
    kinds = {value.type.tensor_type.elem_type for value in graph.input}
    kinds |= {tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        kinds |= {each.i for each in node.attribute if each.name in ("to", "dtype")}
        kinds |= {each.t.data_type for each in node.attribute if each.type == each.TENSOR}
    return onnx.TensorProto.DOUBLE in kinds


def _renew(node: onnx.NodeProto, version: int, graph: onnx.GraphProto) -> bool:
    """Write a node as it is now; tell whether that can be done."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if any(each.type in (each.GRAPH, each.GRAPHS) for each in given.values()):
        return False
    if node.domain not in STANDARD_DOMAINS:
        return True
    if "spatial" in given:  # of a BatchNormalization; 1 is all that there is now
        if given["spatial"].i != 1:
            return False
        node.attribute.remove(given["spatial"])
    if node.op_type in MOVED:
        if len(node.input) == 1:  # else it is a Slice that has inputs already
            _move(node, given, graph)
        return True
    return node.op_type in SAME or _is_unchanged(node.op_type, version)


def _is_unchanged(op: str, version: int) -> bool:
    """Whether the specification of an operator is that of the newer set."""
    try:
        old, new = (onnx.defs.get_schema(op, each) for each in (version, WRITTEN_IN))
    except onnx.defs.SchemaError:
        return False
    return bool(old.since_version == new.since_version)


def _move(
    node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto], graph: onnx.GraphProto
) -> None:
    """Turn attributes into inputs."""
    for name, kind in MOVED[node.op_type].items():
        node.input.append("")
        if name in given:
            values: np.ndarray = np.array(onnx.helper.get_attribute_value(given[name]), kind)
            node.input[-1] = f"{PREFIX}{node.output[0]}/{name}"
            graph.initializer.append(numpy_helper.from_array(values, node.input[-1]))
            node.attribute.remove(given[name])
    while not node.input[-1]:
        del node.input[-1]
