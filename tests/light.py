"""The light graphs inside of the onnx wheel, filled with random weights.

Their weights were replaced by `ConstantOfShape` nodes (all 0.02) or small constants, which would
make every channel the same. Here each becomes an initializer whose values suit what reads it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.onnxio.load import load
from onnx_reap.onnxio.session import run, session

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))
_PASSING = ("Unsqueeze", "Reshape", "Identity")


def filled(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return a light graph with seeded random weights; logits are an output, with deviation 1.

    Weights are so large that activations don't fade when half of the channels are gone.
    """
    proto = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = proto.graph
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == 7}
    weights = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type == 1}
    made = [n for n in graph.node if n.op_type == "ConstantOfShape"]
    weights |= {n.output[0]: tuple(int(d) for d in shapes[n.input[0]]) for n in made}
    unread = {n.input[0] for n in made}
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in nodes:
        for index, tensor in enumerate(node.input):
            readers.setdefault(tensor, []).append((node, index))
    arrays = {n: _values(rng, n, shape, readers) for n, shape in weights.items() if n in readers}
    arrays |= {n: a for n, a in shapes.items() if n not in unread and n in readers}
    inputs = [v for v in graph.input if v.name in readers and v.name not in arrays]
    del graph.node[:], graph.initializer[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    graph.input.extend(  # IR 3 lists initializers as inputs
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer
    )
    _scale_logits(proto)
    return proto


def _values(rng, name: str, shape: tuple[int, ...], readers) -> np.ndarray:
    node, index = readers[name][0]
    while node.op_type in _PASSING:
        node, index = readers[node.output[0]][0]
    role = (node.op_type, index)
    if role in (("Conv", 1), ("Gemm", 1)):
        drawn = rng.standard_normal(shape, np.float32)
        return drawn * np.float32((4 / np.prod(shape[1:])) ** 0.5)
    if role == ("BatchNormalization", 4) or role == ("BatchNormalization", 1) or role[0] == "Mul":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(0.1)


def _scale_logits(proto: onnx.ModelProto) -> None:
    """Scale the last weight so that a Softmax behind it is far from saturated."""
    last = next(n for n in reversed(proto.graph.node) if n.op_type in ("Conv", "Gemm"))
    proto_logits = with_outputs(proto, [last.output[0]])
    value = proto.graph.input[0]
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    x = np.random.default_rng(7).standard_normal(dims, np.float32)
    active = session(load(proto_logits), ["CPUExecutionProvider"], shares=True)
    logits = run(active, None, {value.name: x})[last.output[0]]
    if proto.graph.node[-1].op_type == "Softmax":  # nearly uniform outputs would hide errors
        dims = list(logits.shape)
        value = onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, dims)
        proto.graph.output.append(value)
    for tensor in proto.graph.initializer:
        if tensor.name in last.input[1:]:
            scaled = numpy_helper.to_array(tensor) / logits.std()
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
