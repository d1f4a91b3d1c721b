"""A builder of small ONNX graphs with random weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

IR = {9: 4, 11: 6, 13: 7, 17: 8, 18: 8, 20: 9, 21: 10}


class Net:
    """Collects nodes; arrays given as inputs become initializers.

    Parameters
    ----------
    opset : int
    seed : int
        Of the random weights.
    store : callable, optional
        Takes (net, name, array), puts an array into the graph and returns the tensor's name;
        initializers by default.
    """

    def __init__(
        self, opset: int = 17, seed: int = 0, store: Callable[..., str] | None = None
    ) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.store = store or Net.initializer
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, *dims: int | str, dtype: int = onnx.TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def output(self, *names: str) -> None:
        self.outputs += [onnx.ValueInfoProto(name=name) for name in names]

    def weight(self, *shape: int, scale: float | None = None) -> np.ndarray:
        """Random float32 values that keep activations in range."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        scale = (2 / fan) ** 0.5 if scale is None else scale
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def initializer(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def __call__(
        self,
        op: str,
        *inputs: str | np.ndarray,
        name: str | None = None,
        outputs: int | list[str] = 1,
        domain: str = "",
        **attributes: object,
    ):
        """Add a node; return its output's name, or their list if there are several."""
        self._count += 1
        stem = name or f"{op.lower()}{self._count}"
        names = [
            value if isinstance(value, str) else self.store(self, f"{stem}_{i}", np.asarray(value))
            for i, value in enumerate(inputs)
        ]
        made = [f"{stem}_y{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        node = helper.make_node(op, names, made, name=name or "", domain=domain)
        # Sorted by name and without type inference: an empty list is a list of integers.
        node.attribute.extend(
            helper.make_attribute(key, value) if value != [] else _no_integers(key)
            for key, value in attributes.items()
        )
        self.nodes.append(node)
        return made[0] if len(made) == 1 else made

    def conv(
        self,
        name: str,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        rank: int = 2,
        **more,
    ) -> str:
        """A convolution that keeps the size (odd kernels), with bias."""
        group = more.get("group", 1)
        weight = self.weight(outputs, inputs // group, *(kernel,) * rank)
        more.setdefault("pads", [kernel // 2] * (2 * rank))
        return self("Conv", x, weight, self.weight(outputs), name=name, **more)

    def model(self, *, check: bool = True) -> onnx.ModelProto:
        """Assemble the model; output types come from shape inference."""
        graph = helper.make_graph(
            self.nodes, "net", self.inputs, self.outputs, initializer=self.initializers
        )
        domains = {node.domain for node in self.nodes if node.domain}
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR.get(self.opset, 8))
        known = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.output}
        for value in model.graph.output:
            value.CopyFrom(known[value.name])
            if not value.type.tensor_type.HasField("shape"):  # the tests' usual outputs are images
                value.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension()] * 4)
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value"):
                    dim.dim_param = f"{value.name}_{axis}" if axis else "N"
            if not value.type.tensor_type.elem_type:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if check:
            onnx.checker.check_model(model, full_check=True)
        return model


def _no_integers(key: str) -> onnx.AttributeProto:
    return onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS)


def sandwich(
    middle: Callable[[Net, str], str],
    *,
    channels: int = 8,
    out: int | None = None,
    size: tuple[int, ...] = (6, 6),
    opset: int = 17,
    batch: int | str = "N",
    head: str = "conv",
    store: Callable[..., str] | None = None,
    check: bool = True,
) -> onnx.ModelProto:
    """Conv `a` (3 -> channels), something in the middle, then Conv or Gemm `z` (out -> 5).

    Parameters
    ----------
    middle : callable
        Takes the net and the tensor behind `a`; returns the tensor in front of `z`.
    out : int, optional
        Channels behind the middle; `channels` by default.
    """
    net = Net(opset, store=store)
    rank = len(size)
    x = net.input("x", batch, 3, *size)
    y = middle(net, net.conv("a", x, 3, channels, rank=rank))
    out = channels if out is None else out
    if head == "conv":
        y = net.conv("z", y, out, 5, 1, rank=rank)
    elif head == "gemm":
        y = net("Gemm", y, net.weight(5, out), net.weight(5), name="z", transB=1)
    net.output(y)
    return net.model(check=check)
