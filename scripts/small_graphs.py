"""A builder of small models with random weights, which also draws samples for their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
from onnxruntime import InferenceSession

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
BATCH = "N"  # the open axis along which samples lie; other open sizes differ from feed to feed
SIZES = range(10, 15)
VERSIONS = {"ai.onnx.ml": 2}  # of domains, where not 1
FUNCTIONS = 8  # the version of the file's format that holds them


@dataclass(frozen=True)
class Input:
    """An input of a model, and what is fed to it."""

    shape: tuple[int | str, ...]
    draw: Draw


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers that resemble their neighbours along the last axes, as images do."""
    x = rng.standard_normal(shape)
    for axis in range(2, len(shape)):
        x = (x + np.roll(x, 1, axis) + np.roll(x, 2, axis)) / 3**0.5
    return x


def below(limit: int) -> Draw:
    """Make a function that draws integers from 0 on."""
    return lambda rng, shape: rng.integers(0, limit, shape)


def one_of(words: Sequence[str]) -> Draw:
    """Make a function that draws texts."""
    return lambda rng, shape: rng.choice(words, shape).astype(object)


class Graph:
    """A graph under construction; calling it adds a node and returns the output's name."""

    def __init__(self, opset: int):
        self.opset = opset
        self.dtype = np.dtype(np.float32)  # of inputs and constants that are real numbers
        self.rng = np.random.default_rng(0)
        self.inputs: dict[str, Input] = {}
        self.functions: list[onnx.FunctionProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def input(self, name: str, *shape: int | str, draw: Draw = smooth) -> str:
        """Add an input."""
        self.inputs[name] = Input(shape, draw)
        return name

    def images(self, channels: int = 3) -> str:
        """Add an input of small images."""
        return self.input("x", BATCH, channels, 8, 8)

    def const(self, values: Any, name: str = "") -> str:
        """Add a constant that may be read more than once; real numbers in the graph's type."""
        array = np.asarray(values)
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array
        name = name or f"c{len(self._constants)}"
        self._constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan: int | None = None) -> str:
        """Add random values, the sum of `fan` of which keeps activations in range."""
        scale = (2 / (fan or int(np.prod(shape[1:])))) ** 0.5
        return self.const(self.rng.standard_normal(shape) * scale)

    def scale(self, *shape: int) -> str:
        """Add random factors about 1."""
        return self.const(self.rng.uniform(0.5, 1.5, shape))

    def shift(self, *shape: int) -> str:
        """Add random terms about 0."""
        return self.const(self.rng.uniform(-0.3, 0.3, shape))

    def __call__(self, op: str, *inputs: str | np.ndarray, outputs: int = 1, **given: Any) -> Any:
        """Add a node; arrays among the inputs become constants. Several outputs are a list."""
        names = [x if isinstance(x, str) else self.const(x) for x in inputs]
        made = [f"t{len(self._nodes)}_{k}" for k in range(outputs)]
        self._nodes.append(oh.make_node(op, names, made, f"{op}_{len(self._nodes)}", **given))
        return made[0] if outputs == 1 else made

    def conv(self, x: str, cin: int, cout: int) -> str:
        """Add a convolution that keeps the size."""
        return str(self("Conv", x, self.weight(cout, cin, 3, 3), self.shift(cout), pads=[1] * 4))

    def block(self, x: str, cin: int, cout: int) -> str:
        """Add a convolution and a Relu."""
        return str(self("Relu", self.conv(x, cin, cout)))

    def dense(self, x: str, cin: int, cout: int) -> str:
        """Add a matrix product along the last axis, and a bias."""
        y = self("MatMul", x, self.weight(cin, cout, fan=cin))
        return str(self("Add", y, self.shift(cout)))

    def model(self, output: str) -> onnx.ModelProto:
        """Assemble the model, and check it."""
        values = [self._described(name) for name in self.inputs]
        result = oh.make_tensor_value_info(output, oh.np_dtype_to_tensor_dtype(self.dtype), None)
        graph = oh.make_graph(self._nodes, "small", values, [result], self._constants)
        domains = sorted({node.domain for node in self._nodes} - {""})
        sets = [oh.make_opsetid("", self.opset)]
        sets += [oh.make_opsetid(domain, VERSIONS.get(domain, 1)) for domain in domains]
        oldest = oh.find_min_ir_version_for(sets, ignore_unknown=True)
        oldest = max(oldest, FUNCTIONS) if self.functions else oldest
        made = oh.make_model(graph, opset_imports=sets, ir_version=oldest, functions=self.functions)
        found = onnx.shape_inference.infer_shapes(made).graph.output[0]
        if not found.type.tensor_type.HasField("shape"):  # onnx doesn't know all operators
            shape = InferenceSession(made.SerializeToString()).get_outputs()[0].shape
            found = oh.make_tensor_value_info(output, result.type.tensor_type.elem_type, shape)
        made.graph.output[0].CopyFrom(found)
        onnx.checker.check_model(made)
        return made

    def _described(self, name: str) -> onnx.ValueInfoProto:
        given = self.inputs[name]
        kind = given.draw(np.random.default_rng(0), (1,) * len(given.shape)).dtype
        kind = self.dtype if kind.kind == "f" else kind
        return oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(kind), given.shape)

    def samples(self, count: int, seed: int) -> dict[str, np.ndarray] | list[dict[str, np.ndarray]]:
        """Draw samples: arrays with a batch axis, or feeds where an input has none."""
        rng = np.random.default_rng(seed)
        if all(given.shape[:1] == (BATCH,) for given in self.inputs.values()):
            return dict(self._drawn(rng, count))
        return [dict(self._drawn(rng, 1)) for _ in range(count)]

    def _drawn(self, rng: np.random.Generator, count: int) -> Iterator[tuple[str, np.ndarray]]:
        named = {size for each in self.inputs.values() for size in each.shape} - {BATCH}
        sizes: dict[int | str, int] = {BATCH: count}
        for size in sorted(size for size in named if isinstance(size, str)):
            sizes[size] = int(rng.choice(SIZES))
        for name, given in self.inputs.items():
            shape = tuple(sizes.get(size) or int(size) for size in given.shape)
            array = given.draw(rng, shape)
            yield name, array.astype(self.dtype) if array.dtype.kind == "f" else array
