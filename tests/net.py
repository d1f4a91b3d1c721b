"""A builder of small ONNX graphs with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper as oh


class Net:
    """A graph under construction; every method that adds to it returns the tensor's name.

    Parameters
    ----------
    inputs : mapping of str to sequence
        Names and shapes.
    seed : int
        Of the random weights.
    dtype : dtype-like
        Of inputs, outputs and floating-point constants.
    opset : int
        May still be set until `model` is called, if no node depends on it.
    store : callable, optional
        Takes (net, name, array), puts an array into the graph and returns the tensor's name;
        initializers by default.
    """

    def __init__(
        self,
        inputs: Mapping[str, Sequence[int | str]],
        seed: int = 0,
        dtype=np.float32,
        *,
        opset: int = 17,
        store: Callable[..., str] | None = None,
    ):
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.opset = opset
        self.store = store or Net.initializer
        self.inputs = inputs
        self.outputs: list[str] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}  # initializers
        self._constants = 0

    def initializer(self, name: str, array: np.ndarray) -> str:
        """Put an array into the graph as it is, where `store` doesn't say otherwise."""
        self.weights[name] = array
        return name

    def constant(self, values, name: str | None = None) -> str:
        """Put values into the graph that several nodes read, or that need a name."""
        name = name or f"c{self._constants}"
        self._constants += 1
        values = np.asarray(values)
        floating = values.dtype.kind == "f"
        return self.store(self, name, values.astype(self.dtype) if floating else values)

    def weight(self, *shape: int, scale: float | None = None) -> np.ndarray:
        """Random values, which keep activations in range unless a scale is given."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        scale = (2 / fan) ** 0.5 if scale is None else scale
        return (self.rng.standard_normal(shape) * scale).astype(self.dtype)

    def random(self, *shape: int, scale: float = 1.0, name: str | None = None) -> str:
        """Put random values into the graph."""
        return self.constant(self.weight(*shape, scale=scale), name)

    def node(
        self,
        op: str,
        *inputs: str | np.ndarray,
        name: str | None = None,
        outputs: int | list[str] = 1,
        **attributes,
    ):
        """Add a node, which calling the net does, too; arrays among its inputs become constants.

        Return its output's name, or their list if there are several.
        """
        name = name or f"{op.lower()}{len(self.nodes)}"
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        if isinstance(outputs, int):
            outputs = [f"{name}_y", *(f"{name}_y{i}" for i in range(1, outputs))]
        lists = {key: value for key, value in attributes.items() if value == []}
        rest = {key: value for key, value in attributes.items() if key not in lists}
        node = oh.make_node(op, names, outputs, name, **rest)
        node.attribute.extend(  # no type can be told from an empty list
            onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS) for key in lists
        )
        self.nodes.append(node)
        return outputs[0] if len(outputs) == 1 else outputs

    __call__ = node

    def conv(
        self, x: str, cin: int, cout: int, k: int = 3, *, rank=2, group=1, bias=True, **attributes
    ):
        """A convolution that keeps the size (odd kernels)."""
        fan = cin // group * k**rank
        weight = self.random(cout, cin // group, *(k,) * rank, scale=fan**-0.5)
        more = [self.random(cout, scale=0.1)] if bias else []
        pads = attributes.pop("pads", [k // 2] * 2 * rank)
        return self.node("Conv", x, weight, *more, group=group, pads=pads, **attributes)

    def norm(self, x: str, c: int, **attributes):
        uniform = self.rng.uniform
        parameters = [uniform(0.5, 1.5, c), uniform(-0.3, 0.3, c), uniform(-0.2, 0.2, c)]
        return self.node("BatchNormalization", x, *parameters, uniform(0.5, 1.5, c), **attributes)

    def block(self, x: str, cin: int, cout: int, k: int = 3, *, bias=False, **attributes):
        """Convolution, normalisation, Relu."""
        return self.node(
            "Relu", self.norm(self.conv(x, cin, cout, k, bias=bias, **attributes), cout)
        )

    def gemm(self, x: str, cin: int, cout: int, **attributes):
        weight = self.random(cin, cout, scale=cin**-0.5)
        return self.node("Gemm", x, weight, self.random(cout, scale=0.1), **attributes)

    def head(self, x: str, cin: int, classes: int) -> str:
        pooled = self.node("GlobalAveragePool", x)
        return self.gemm(self.node("Flatten", pooled), cin, classes)

    def output(self, *names: str) -> None:
        """Make tensors outputs where the model is assembled elsewhere; else name them there."""
        self.outputs += names

    def model(
        self,
        *outputs: str,
        shapes: Mapping[str, Sequence[int | str | None]] | None = None,
        types: Mapping[str, int] | None = None,
        check: bool = True,
    ) -> onnx.ModelProto:
        """Assemble the model.

        Parameters
        ----------
        outputs : str
            Behind those that `output` named.
        shapes : mapping of str to sequence, optional
            Of outputs where shape inference doesn't find them.
        types : mapping of str to int, optional
            Element types of inputs, and of outputs where type inference doesn't find them, if they
            aren't the net's.
        check : bool
            Have onnx check the model, which it refuses where an output's shape is unknown.
        """
        shapes, types = shapes or {}, types or {}
        kind = oh.np_dtype_to_tensor_dtype(self.dtype)
        ins = [
            oh.make_tensor_value_info(name, types.get(name, kind), shape)
            for name, shape in self.inputs.items()
        ]
        outs = [onnx.ValueInfoProto(name=name) for name in (*self.outputs, *outputs)]
        tensors = [onnx.numpy_helper.from_array(v, n) for n, v in self.weights.items()]
        graph = oh.make_graph(self.nodes, "net", ins, outs, tensors)
        domains = {node.domain for node in self.nodes} - {""}
        sets = [oh.make_opsetid("", self.opset), *(oh.make_opsetid(d, 1) for d in sorted(domains))]
        oldest = oh.find_min_ir_version_for(sets, ignore_unknown=True)
        made = oh.make_model(graph, opset_imports=sets, ir_version=oldest)
        inferred = onnx.shape_inference.infer_shapes(made).graph.output
        for output, known in zip(made.graph.output, inferred, strict=True):
            shapeless = not known.type.tensor_type.HasField("shape")
            if shapeless and known.type.WhichOneof("value") in (None, "tensor_type"):
                name = known.name
                found = known.type.tensor_type.elem_type or types.get(name, kind)
                known = oh.make_tensor_value_info(name, found, shapes.get(name))
            output.CopyFrom(known)
        if check:
            onnx.checker.check_model(made, full_check=True)
        return made


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
    net = Net({"x": (batch, 3, *size)}, opset=opset, store=store)
    rank = len(size)
    y = middle(net, net.conv("x", 3, channels, rank=rank, name="a"))
    out = channels if out is None else out
    if head == "conv":
        y = net.conv(y, out, 5, 1, rank=rank, name="z")
    elif head == "gemm":
        y = net("Gemm", y, net.weight(5, out), net.weight(5), name="z", transB=1)
    ranks = {"conv": 2 + rank, "gemm": 2}  # where nothing tells the shape in the middle
    return net.model(y, shapes={y: (None,) * ranks[head]} if head in ranks else None, check=check)
