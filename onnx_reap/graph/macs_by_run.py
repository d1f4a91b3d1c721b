"""Multiply-accumulates that a run counts: in the bodies of If, Loop and Scan, and of other nodes.

How often a body runs, which branch is taken and what shapes tensors have inside may all follow from
values. So a copy of the model counts for itself: every layer in a body writes its MACs as a scalar,
which leaves a Loop or Scan as one more scan output and is summed, and leaves an If as one more
output, 0 in the other branch. Nodes that no rule counts write theirs beside them.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import count

import onnx
from onnx import helper

from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.mac_formulas import Counted, formula_of
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.bodies import first_result
from onnx_reap.onnxio.session import Feed, run, session

Place = tuple[str, ...]
"""Where a layer is: its name and first output, and in front of these, from the outermost node in,
the first output of every node that holds it and the name of the body.

Of a layer that is the model's own node, its first output comes first, too.
"""

PREFIX = "onnx_reap.macs/"


def count_by_run(
    model: Model, feed: Feed, providers: Sequence[str], own: Collection[str] = ()
) -> Counter[Place] | None:
    """Run a model once; return the multiply-accumulates of layers and products in bodies.

    Parameters
    ----------
    own : collection of str
        First outputs of nodes of the model's own that are counted, too.

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
        counted |= {name: place for place, name in writer.out_of(node, proto.graph)}
        if first_result(node) in own:
            counted |= {
                n: (first_result(node), *place) for place, n in writer.of(node, proto.graph)
            }
    if not counted:
        return Counter()
    counting = replace(light, proto=proto)
    try:
        active = session(counting, providers, outputs=[*counted], optimize=False)
        values = run(active, [*counted], feed)
    except ReapError:
        return None
    total: Counter[Place] = Counter()
    for name, place in counted.items():
        total[place] += int(values[name])
    return total


Count = tuple[Place, str]
"""Where a layer is in the graph at hand, and the scalar that counts it."""


class _Writer:
    """Writes nodes that count."""

    def __init__(self) -> None:
        self._names = (f"{PREFIX}{number}" for number in count())

    def out_of(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> list[Count]:
        """Count what is in a node's bodies; return scalars of the graph around it."""
        held = [a for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        bodies = [each.g for each in held]
        if node.domain not in STANDARD_DOMAINS or Trait.RUNS_BODIES not in traits_of(node.op_type):
            return []
        counts = [self._inside(body) for body in bodies]
        given = len(bodies[0].output) - (node.op_type == "Loop")  # whose first is its condition
        node.output.extend([""] * (given - len(node.output)))
        found: list[Count] = []
        first = first_result(node)
        for attribute, body, inside in zip(held, bodies, counts, strict=True):
            for place, inner in inside:
                for other in bodies:
                    name = inner if other is body else self._at(node, other).number(0)
                    info = helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [])
                    other.output.append(info)
                outer = next(self._names)
                node.output.append(outer)
                if node.op_type != "If":
                    outer = self._at(node, graph).op("ReduceSum", outer, keepdims=0)
                found.append(((first, attribute.name, *place), outer))
        if node.op_type == "Scan":
            for each in node.attribute:
                if each.name in ("scan_output_axes", "scan_output_directions"):
                    each.ints.extend([0] * len(found))
        return found

    def _inside(self, body: onnx.GraphProto) -> list[Count]:
        """Count the layers of a body, and of those in it."""
        found: list[Count] = []
        for node in list(body.node):
            found += self.out_of(node, body) + self.of(node, body)
        return found

    def of(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> list[Count]:
        """Count what a node itself multiplies, if anything."""
        formula = formula_of(node.domain, node.op_type)
        name = formula and formula(self._at(node, graph))
        return [((node.name, first_result(node)), name)] if name else []

    def _at(self, node: onnx.NodeProto, graph: onnx.GraphProto) -> Counted:
        return Counted(node, graph, self._names)
