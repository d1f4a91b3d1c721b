"""Small networks with random weights, built node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.helper as oh


class Net:
    """A graph under construction; every method adds a node and returns its output's name."""

    def __init__(self, inputs: Mapping[str, Sequence[int | str]], seed: int = 0, dtype=np.float32):
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def constant(self, values, name: str | None = None) -> str:
        name = name or f"c{len(self.weights)}"
        values = np.asarray(values)
        self.weights[name] = values.astype(self.dtype) if values.dtype.kind == "f" else values
        return name

    def random(self, *shape: int, scale: float = 1.0, name: str | None = None) -> str:
        return self.constant(self.rng.standard_normal(shape) * scale, name)

    def node(self, op: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes):
        name = name or f"{op.lower()}{len(self.nodes)}"
        names = [f"{name}_y" if i == 0 else f"{name}_y{i}" for i in range(outputs)]
        self.nodes.append(oh.make_node(op, list(inputs), names, name, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, cin: int, cout: int, k: int = 3, *, group=1, bias=True, **attributes):
        weight = self.random(cout, cin // group, k, k, scale=(cin // group * k * k) ** -0.5)
        more = [self.random(cout, scale=0.1)] if bias else []
        pads = attributes.pop("pads", [k // 2] * 4)
        return self.node("Conv", x, weight, *more, group=group, pads=pads, **attributes)

    def norm(self, x: str, c: int, **attributes):
        uniform = self.rng.uniform
        parameters = [uniform(0.5, 1.5, c), uniform(-0.3, 0.3, c), uniform(-0.2, 0.2, c)]
        names = [self.constant(p) for p in (*parameters, uniform(0.5, 1.5, c))]
        return self.node("BatchNormalization", x, *names, **attributes)

    def block(self, x: str, cin: int, cout: int, k: int = 3, *, bias=False, **attributes):
        return self.node(
            "Relu", self.norm(self.conv(x, cin, cout, k, bias=bias, **attributes), cout)
        )

    def gemm(self, x: str, cin: int, cout: int, **attributes):
        weight = self.random(cin, cout, scale=cin**-0.5)
        return self.node("Gemm", x, weight, self.random(cout, scale=0.1), **attributes)

    def head(self, x: str, cin: int, classes: int) -> str:
        pooled = self.node("GlobalAveragePool", x)
        return self.gemm(self.node("Flatten", pooled), cin, classes)

    def model(
        self,
        *outputs: str,
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        types: Mapping[str, int] | None = None,
        opset: int = 17,
        ir: int = 8,
        domains: Sequence[str] = (),
    ) -> onnx.ModelProto:
        kind = oh.np_dtype_to_tensor_dtype(self.dtype)
        ends = [oh.make_tensor_value_info(n, kind, s) for n, s in self.inputs.items()]
        outs = [
            oh.make_tensor_value_info(n, (types or {}).get(n, kind), (shapes or {}).get(n))
            for n in outputs
        ]
        tensors = [onnx.numpy_helper.from_array(v, n) for n, v in self.weights.items()]
        graph = oh.make_graph(self.nodes, "net", ends, outs, tensors)
        sets = [oh.make_opsetid("", opset), *(oh.make_opsetid(name, 1) for name in domains)]
        made = oh.make_model(graph, opset_imports=sets, ir_version=ir)
        inferred = onnx.shape_inference.infer_shapes(made).graph.output
        for output, known in zip(made.graph.output, inferred, strict=True):
            output.CopyFrom(known)
        return made


def chain(channels: int = 16, seed: int = 0, batch: int | str = "N", size: int | str = 8, **net):
    """Image -> three blocks -> classes; the first two blocks can be pruned, the third too."""
    n = Net({"x": (batch, 3, size, size)}, seed, **net)
    h = n.block("x", 3, channels)
    h = n.block(h, channels, channels)
    h = n.block(h, channels, channels)
    y = n.head(h, channels, 5)
    return n.model(y)


def stateful() -> onnx.ModelProto:
    """Image and the state of an LSTM, whose batch lies along its second axis -> classes, state."""
    n = Net({"x": ("N", 3, 8, 8), "state": (2, "N", 8)})
    h = n.node("GlobalAveragePool", n.block(n.block("x", 3, 8), 8, 8))
    h = n.node("Unsqueeze", n.node("Flatten", h), n.constant([0]))
    first = [n.node("Gather", "state", n.constant(np.array([i])), axis=0) for i in (0, 1)]
    weights = [n.random(1, 32, 8, scale=0.3) for _ in "wr"]
    _, h, c = n.node("LSTM", h, *weights, "", "", *first, outputs=3, hidden_size=8, name="lstm")
    y = n.gemm(n.node("Squeeze", h, n.constant([0])), 8, 5)
    return n.model(y, n.node("Concat", h, c, axis=0, name="last"))


def images(count: int = 24, size: int = 8, seed: int = 1, channels: int = 3) -> np.ndarray:
    """Smooth random images, (count, channels, size, size) float32."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, channels, size, size))
    smooth = noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3)
    return smooth.astype(np.float32)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run in onnxruntime without optimization."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(feed))
