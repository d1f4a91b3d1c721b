"""A layer on its own: what its time depends on, and a model of it with other channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.rules.recurrent import GATES
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import to_onnx


@dataclass(frozen=True)
class TimedLayer:
    """What decides a layer's time but for its channels; equal layers are measured once."""

    # Serialized NodeProto with inputs `x`, `w`, perhaps `r` (recurrent layers) and perhaps `b`,
    # output `y` and no name
    node: bytes
    opset: int
    dtype: np.dtype
    x_shape: tuple[int, ...]  # Shape of the input, 0 for the channels
    # See `Linear`
    x_axis: int
    weight_in: int
    weight_out: int
    kernel: tuple[int, ...]
    group: int  # 1 for depthwise layers: theirs follow the channels
    multiplier: int  # Outputs per input of a depthwise layer; 0 for others
    # Serialized NodeProto that follows, from `y` to `z`, empty if there is none: onnxruntime makes
    # it part of the layer, which yet takes longer for it. Its other inputs are `c1`, `c2`.
    activation: bytes = b""
    bounds: tuple[float, ...] = ()  # Scalars for these inputs


@dataclass(frozen=True)
class SizedLayer:
    """A layer with so many input and output channels."""

    layer: TimedLayer
    inputs: int
    outputs: int


def describe(
    linear: Linear,
    node: onnx.NodeProto,
    opset: int,
    dtype: np.dtype,
    x_shape: Sequence[int],
    outputs: int,
    activation: tuple[onnx.NodeProto, Mapping[int, float]] | None = None,
) -> TimedLayer:
    """Reduce a layer of a model to what its time depends on.

    The shape of its input includes channels. The activation that follows comes with its scalar
    inputs by place.
    """
    names = ["x", "w", *("r" * linear.recurrent), *("b" if linear.bias else "")]
    inputs = x_shape[linear.x_axis]
    return TimedLayer(
        _bare(node, names, "y"),
        opset,
        np.dtype(dtype),
        tuple(0 if axis == linear.x_axis else int(n) for axis, n in enumerate(x_shape)),
        linear.x_axis,
        linear.weight_in,
        linear.weight_out,
        tuple(linear.kernel),
        1 if linear.depthwise else linear.group,
        outputs // inputs if linear.depthwise else 0,
        *(() if activation is None else _bare_activation(*activation)),
    )


def _bare_activation(
    node: onnx.NodeProto, scalars: Mapping[int, float]
) -> tuple[bytes, tuple[float, ...]]:
    """Strip an activation of its names."""
    rest = range(1, len(node.input))
    names = ["y", *(f"c{place}" if place in scalars else "" for place in rest)]
    return _bare(node, names, "z"), tuple(scalars[place] for place in sorted(scalars))


def _bare(node: onnx.NodeProto, inputs: Sequence[str], output: str) -> bytes:
    """Serialize a node under other names, without what depends on channels."""
    bare = onnx.NodeProto(op_type=node.op_type, input=inputs, output=[output])
    attributes = sorted(node.attribute, key=lambda a: a.name)
    bare.attribute.extend(a for a in attributes if a.name != "group")
    result: bytes = bare.SerializeToString(deterministic=True)
    return result


def layer_of(analysis: Analysis, linear: Linear) -> TimedLayer:
    """Describe a layer of a model by what its time depends on."""
    model = analysis.model
    return describe(
        linear,
        model.node_proto(model.node(linear.node)),
        model.opset,
        _dtype(analysis, linear),
        single_shape(analysis.probe, linear.x),
        analysis.probe.shapes[linear.y][linear.y_axis],
        _activation(model, linear),
    )


def single_shape(probe: Probe, tensor: str) -> tuple[int, ...]:
    """Shape of a tensor for one sample, or for one batch where that is fixed."""
    grows = probe.dynamic.get(tensor, ())
    return tuple(
        int(size) // probe.batch if axis in grows else int(size)
        for axis, size in enumerate(probe.shapes[tensor])
    )


def _dtype(analysis: Analysis, linear: Linear) -> np.dtype:
    """Return the type that a layer is timed in: its own if onnxruntime has kernels for it."""
    probe = analysis.probe
    known = probe.written if analysis.runs_as_given else {}
    return known.get(linear.x, probe.dtypes[linear.x])


def _activation(model: Model, linear: Linear) -> tuple[onnx.NodeProto, dict[int, float]] | None:
    """Return the activation that alone reads a layer, past a BatchNormalization, and its bounds."""
    readers = [] if linear.recurrent else model.node(linear.node).outputs[0].outputs
    if len(readers) == 1 and readers[0].op == "BatchNormalization":
        readers = readers[0].outputs[0].outputs
    if len(readers) != 1 or Trait.FUSES not in traits_of(readers[0].op):
        return None
    bounds = {}
    for place, tensor in enumerate(readers[0].inputs):
        if place and tensor.name:
            values = getattr(tensor, "values", None)  # of constants
            if values is None or np.size(values) != 1:
                return None
            bounds[place] = float(np.ravel(values)[0])
    return model.node_proto(readers[0]), bounds


def layer_model(point: SizedLayer) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Build a model of one layer and its activation, with random weights, and a feed for it."""
    layer, rng = point.layer, np.random.default_rng(0)
    nodes = [onnx.NodeProto.FromString(each) for each in (layer.node, layer.activation) if each]
    group = point.inputs if layer.multiplier else layer.group
    if group > 1:
        nodes[0].attribute.append(onnx.helper.make_attribute("group", group))

    def noise(sizes: Sequence[int]) -> np.ndarray:
        return np.resize(rng.random(1009, np.float32) - 0.5, sizes).astype(layer.dtype)

    shapes = _constant_shapes(point, nodes[0], group)
    constants = {name: noise(shapes[name]) for name in nodes[0].input if name != "x"}
    bounds = [name for node in nodes[1:] for name in node.input[1:] if name]
    constants |= {n: np.array(b, layer.dtype) for n, b in zip(bounds, layer.bounds, strict=True)}
    shape = [point.inputs if axis == layer.x_axis else n for axis, n in enumerate(layer.x_shape)]
    kind = to_onnx(layer.dtype)
    graph = onnx.helper.make_graph(
        nodes,
        "layer",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info(nodes[-1].output[0], kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", layer.opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), {"x": noise(shape)}


def _constant_shapes(point: SizedLayer, node: onnx.NodeProto, group: int) -> dict[str, list[int]]:
    """Return the shapes of a layer's weights and bias."""
    layer = point.layer
    if node.op_type in GATES:
        both = any(a.name == "direction" and a.s == b"bidirectional" for a in node.attribute)
        directions = 2 if both else 1
        results = point.outputs // directions
        hidden = results // GATES[node.op_type]
        shapes = {"w": [point.inputs], "r": [hidden], "b": []}
        return {
            name: [directions, results * (2 if name == "b" else 1), *shape]
            for name, shape in shapes.items()
        }
    weight = [0, 0, *layer.kernel]
    weight[layer.weight_in], weight[layer.weight_out] = point.inputs, point.outputs
    weight[1] //= group  # the weight of a convolution spans one group along its second axis
    return {"w": weight, "b": [point.outputs]}
