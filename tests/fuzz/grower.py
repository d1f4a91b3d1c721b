"""Grows random valid graphs, node by node; every node runs in onnxruntime when it is added.

Choices come from a `random.Random`, weights from NumPy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.session import run, session

CPU = ["CPUExecutionProvider"]
LARGEST = 1e4  # of an activation: sums of larger ones lose too many digits to be compared
ENTRIES = 6000  # of a tensor


class UnfitError(Exception):
    """This operator finds no input here, or onnxruntime refuses the node."""


@cache
def newest_opset() -> int:
    """Newest operator set that onnx knows and onnxruntime runs."""
    for opset in range(onnx.defs.onnx_opset_version(), 9, -1):
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
        with suppress(ReapError):
            session(_model(graph, opset), CPU)
            return opset
    raise AssertionError("onnxruntime runs no operator set")


def _model(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset)]
    # The oldest format that may hold the operator set, which every onnxruntime reads.
    return helper.make_model(
        graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports, True)
    )


class Grower:
    """A graph that grows.

    Attributes
    ----------
    pick : random.Random
        Makes all choices.
    values : dict of str to numpy.ndarray
        Every tensor that is computed, with its value for the inputs that were drawn.
    batch : int
        Leading size of the inputs; `open_batch` tells whether the model leaves it open.
    """

    def __init__(self, pick: random.Random) -> None:
        self.pick = pick
        self.rng = np.random.default_rng(pick.randrange(1000))
        recent = [opset for opset in (13, 15, 17, 18, 20, 21) if opset < newest_opset()]
        self.opset = pick.choice([17, *recent, newest_opset(), 11, 12, 9])
        self.open_batch = pick.random() < 0.7
        self.batch = 2 if self.open_batch else pick.choice([1, 2, 3])
        self.tied = pick.random() < 0.15
        self.as_nodes = pick.random() < 0.15
        self.listed = pick.random() < 0.05
        self.nameless = pick.random() < 0.1
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {}

    # Choices.

    def chance(self, probability: float) -> bool:
        return self.pick.random() < probability

    def tensor(
        self,
        fits: Callable[[np.ndarray], bool] = lambda value: True,
        kind: str = "f",
    ) -> str:
        """Choose a tensor, a recent one more often than not."""
        names = [n for n, v in self.values.items() if v.dtype.kind == kind and v.ndim and fits(v)]
        if not names:
            raise UnfitError("no such tensor")
        return names[-1] if self.chance(0.5) else self.pick.choice(names)

    def shape(self, name: str) -> tuple[int, ...]:
        return (self.constants if name in self.constants else self.values)[name].shape

    def axis(self, name: str, first: int = 1, only: Callable[[int], bool] | None = None) -> int:
        """Choose an axis, the channels' usual one more often than not."""
        shape = self.shape(name)
        axes = [a for a in range(first, len(shape)) if only is None or only(shape[a])]
        if not axes:
            raise UnfitError("no such axis")
        return 1 if 1 in axes and self.chance(0.5) else self.pick.choice(axes)

    def signed(self, axis: int, rank: int) -> int:
        """Count an axis from the end now and then."""
        return axis - rank if self.opset >= 11 and self.chance(0.3) else axis

    # Parts.

    def input(self, dims: Sequence[int | str], value: np.ndarray) -> str:
        name = f"x{len(self.inputs)}"
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        self.values[name] = value
        return name

    def weight(self, *shape: int, around: float = 0.0, scale: float | None = None) -> str:
        """Random float32 values; a matrix keeps the size of what it multiplies."""
        if scale is None:
            scale = (1.5 / max(np.prod(shape[1:], dtype=int), 1)) ** 0.5 if len(shape) > 1 else 0.5
        same = [n for n, v in self.constants.items() if v.shape == shape and v.dtype == np.float32]
        if self.tied and same and not around and self.chance(0.5):
            return self.pick.choice(same)
        return self.constant((around + scale * self.rng.standard_normal(shape)).astype(np.float32))

    def positive(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array).reshape(np.shape(array))
        return name

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes):
        """Add a node and run it; return its output's name, or their list.

        Raises
        ------
        UnfitError
            If onnxruntime refuses it, or what comes out is not fit to go on with.
        """
        if not onnx.defs.has(op, max_inclusive_version=self.opset):
            raise UnfitError("onnxruntime may know it, but this operator set doesn't")
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        name = "" if self.nameless else f"{op}_{len(self.nodes)}"
        node = helper.make_node(op, inputs, names, name=name, **given)
        found = self._run(node)
        for array in found.values():
            if not 0 < array.size <= ENTRIES:
                raise UnfitError("empty or large")
            if array.dtype.kind == "f" and not np.abs(array).max() < LARGEST:  # or not finite
                raise UnfitError("large or not finite")
        self.nodes.append(node)
        self.values.update(found)
        return names[0] if outputs == 1 else names

    def _run(self, node: onnx.NodeProto) -> dict[str, np.ndarray]:
        used = [n for n in dict.fromkeys(node.input) if n]
        fed = {n: self.values[n] for n in used if n in self.values}
        held = [numpy_helper.from_array(self.constants[n], n) for n in used if n in self.constants]
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in fed.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output],
            held,
        )
        try:
            return run(session(_model(graph, self.opset), CPU), None, fed)
        except ReapError as error:
            raise UnfitError(str(error)) from None

    # The whole.

    def attempt(self, make: Callable[[Grower], object]) -> bool:
        """Let an operator add itself, wholly or not at all."""
        before = len(self.nodes), dict(self.constants), dict(self.values)
        try:
            make(self)
        except UnfitError:
            del self.nodes[before[0] :]
            self.constants, self.values = before[1:]
            return False
        return True

    def unread(self) -> list[str]:
        read = {name for node in self.nodes for name in node.input}
        return [n for node in self.nodes for n in node.output if n not in read]

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """Assemble the model; sizes that follow from an open one stay open."""
        held = [numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        used = {name for node in self.nodes for name in node.input}
        held = [tensor for tensor in held if tensor.name in used]
        nodes, inputs = list(self.nodes), list(self.inputs)
        if self.as_nodes:
            nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in held] + nodes
            held = []
        if self.listed:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in held]
        results = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(self.values[name].dtype), None
            )
            for name in outputs
        ]
        model = _model(helper.make_graph(nodes, "random", inputs, results, held), self.opset)
        known = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.output}
        for value in model.graph.output:
            value.CopyFrom(known[value.name])
            shape = value.type.tensor_type.shape
            if not value.type.tensor_type.HasField("shape"):
                shape.dim.extend(
                    onnx.TensorShapeProto.Dimension() for _ in self.values[value.name].shape
                )
        return model
