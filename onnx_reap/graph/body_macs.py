"""Multiply-accumulates inside the bodies of If, Loop and Scan, counted by a run.

How often a body runs, which branch is taken and what shapes tensors have inside may all follow from
values. So a copy of the model counts for itself: every layer in a body writes its MACs as a scalar,
which leaves a Loop or Scan as one more scan output and is summed, and leaves an If as one more
output, 0 in the other branch.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.session import Feed, run, session

Place = tuple[str, str, str]
"""First output of the model's own node, then name and first output of the layer in its body."""

PREFIX = "onnx_reap.macs/"


def count_in_bodies(model: Model, feed: Feed, providers: Sequence[str]) -> Counter[Place] | None:
    """Run a model once; return the multiply-accumulates of layers and products in bodies.

    Returns
    -------
    Counter, optional
        None where the counting copy can't be run.
    """
    light = model.to_run()
    proto = onnx.ModelProto()
    proto.CopyFrom(light.proto)
    writer = _Writer()
    counted: dict[str, Place] = {}
    for node in list(proto.graph.node):
        for layer, name in writer.out_of(node, proto.graph):
            counted[name] = (_first(node), *layer)
    if not counted:
        return Counter()
    counting = replace(light, proto=proto)
    try:
        active = session(counting, providers, outputs=[*counted], optimize=False)
        found = run(active, [*counted], feed)
    except ReapError:
        return None
    total: Counter[Place] = Counter()
    for name, place in counted.items():
        total[place] += int(found[name])
    return total


def _first(node: onnx.NodeProto) -> str:
    return str(next(name for name in node.output if name))


Count = tuple[tuple[str, str], str]
"""Name and first output of a layer, and the scalar that counts it."""


class _Writer:
    """Writes nodes that count."""

    def __init__(self) -> None:
        self._numbers = count()

    def out_of(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> list[Count]:
        """Count what is in a node's bodies; return scalars of the graph around it."""
        bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        if node.domain not in STANDARD_DOMAINS or Trait.RUNS_BODIES not in traits_of(node.op_type):
            return []
        counts = [self._inside(body) for body in bodies]
        given = len(bodies[0].output) - (node.op_type == "Loop")  # whose first is its condition
        node.output.extend([""] * (given - len(node.output)))
        found = []
        for number, body in enumerate(bodies):
            for layer, inner in counts[number]:
                for other in bodies:
                    name = inner if other is body else self._op(other, "Constant", value=_int(0))
                    info = helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [])
                    other.output.append(info)
                outer = self._name()
                node.output.append(outer)
                if node.op_type != "If":
                    outer = self._op(graph, "ReduceSum", outer, keepdims=0)
                found.append((layer, outer))
        if node.op_type == "Scan":
            for attribute in node.attribute:
                if attribute.name in ("scan_output_axes", "scan_output_directions"):
                    attribute.ints.extend([0] * len(found))
        return found

    def _inside(self, body: onnx.GraphProto) -> list[Count]:
        """Count the layers of a body, and of those in it."""
        found = []
        for node in list(body.node):
            found += self.out_of(node, body)
            if node.domain in STANDARD_DOMAINS and (name := self._macs(node, body)):
                found.append(((node.name, _first(node)), name))
        return found

    def _macs(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> str | None:
        """Write how many multiply-accumulates a node takes, if it is a layer or a product."""
        x, w, r = [*map(str, node.input), "", "", ""][:3]
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        traits = traits_of(node.op_type)
        if Trait.RECURRENT in traits:
            steps = self._op(graph, "Div", self._size(graph, x), self._length(graph, x, 2))
            weights = [self._size(graph, each) for each in (w, r)]
            return self._op(graph, "Mul", steps, self._op(graph, "Add", *weights))
        if Trait.WEIGHTED not in traits:
            return None
        if "Conv" in node.op_type:
            places = x if node.op_type == "ConvTranspose" else _first(node)
            each = self._op(graph, "Div", self._size(graph, w), self._length(graph, w, 0))
            return self._op(graph, "Mul", self._size(graph, places), each)
        entries = self._size(graph, _first(node))
        summed = self._length(graph, x, 0 if given.get("transA") else -1)
        return self._op(graph, "Mul", entries, summed)

    def _size(self, graph: onnx.GraphProto, tensor: str) -> str:
        return self._op(graph, "Size", tensor)

    def _length(self, graph: onnx.GraphProto, tensor: str, axis: int) -> str:
        shape = self._op(graph, "Shape", tensor)
        place = self._op(graph, "Constant", value=_int(axis))
        if axis < 0:  # which Gather takes from operator set 11 on
            place = self._op(graph, "Add", self._size(graph, shape), place)
        return self._op(graph, "Gather", shape, place, axis=0)

    def _op(self, graph: onnx.GraphProto, kind: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _name(self) -> str:
        return f"{PREFIX}{next(self._numbers)}"


def _int(value: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64))
