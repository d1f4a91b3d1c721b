"""Nodes that stand in the body of an If, Loop or Scan in the file, and elsewhere in a graph."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper
from onnx.external_data_helper import uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.extract import bodies_of, names_captured, names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel, fill


@dataclass(frozen=True)
class Edits:
    """What became of a graph since it was read."""

    made: Set[str]  # What its nodes made then
    changed: Set[str]  # Constants that have other values since
    constant: Callable[[str], np.ndarray | None]  # Values of a constant; None for another tensor
    sizes: Mapping[str, tuple[int, int]]  # By tensor, the axis that was cut and its size now


def first_result(node: NodeProto) -> str:
    """Return the name by which a node is known: that of its first result."""
    return next((name for name in node.output if name), "")


def constants_as_nodes(body: GraphProto) -> list[NodeProto]:
    """Write the initializers of a body as Constant nodes."""
    dense = [
        helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in body.initializer
    ]
    return dense + [
        helper.make_node("Constant", [], [tensor.values.name], sparse_value=tensor)
        for tensor in body.sparse_initializer
    ]


def serving(nodes: Sequence[NodeProto], own: Set[str], known: Set[str]) -> set[int]:
    """Return the places of nodes that a body had, and of new ones that only these read.

    Parameters
    ----------
    own : set of str
        What the body's nodes make.
    known : set of str
        What nodes made when the model was read.
    """
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in (*node.input, *names_in_subgraphs(node)):
            readers.setdefault(name, []).append(place)
    inside: set[int] = set()
    for place in reversed(range(len(nodes))):
        made = {name for name in nodes[place].output if name}
        served = [reader for name in made for reader in readers.get(name, ())]
        is_new = not made & known and served and inside.issuperset(served)
        if made & own or is_new:
            inside.add(place)
    return inside


def check_scope(others: Sequence[NodeProto], own: Sequence[NodeProto], joints: Set[str]) -> None:
    """Refuse nodes outside of a body that read what it makes, but for joints."""
    made = {name for node in own for name in node.output if name}
    for node in (each for each in others if joints.isdisjoint(each.output)):
        if read := made.intersection([*node.input, *names_in_subgraphs(node)]):
            raise ReapError(
                f"{node.name or first_result(node)} reads inside the body of another node",
                got=", ".join(sorted(read)),
                expected="results alone",
                hint="report the model's structure as a bug; --exclude the layers of the body",
            )


def is_as_it_was(nodes: Sequence[NodeProto], given: Sequence[NodeProto], changed: Set[str]) -> bool:
    """Whether a body has all nodes that it had, but for constants, none of which changed.

    What is constant outside of it, it reads by name.
    """
    had = {first_result(node): node for node in given}
    left = {first_result(node): node for node in nodes}
    constants = {name for name, node in had.items() if node.op_type == "Constant"}
    # Made of constants, too: what a DequantizeLinear gives, of other integers
    read = {name for node in nodes for name in (*node.input, *names_in_subgraphs(node))}
    as_they_were = had == left | {name: had[name] for name in constants - left.keys()}
    return as_they_were and not (constants | read & had.keys()) & changed


def with_constants_inside(light: LightModel, given: Set[str]) -> LightModel:
    """Move initializers that one body alone reads into it.

    Parameters
    ----------
    given : set of str
        Initializers that stay.
    """
    out = onnx.ModelProto()
    out.CopyFrom(light.proto)
    readers: dict[str, list[GraphProto | None]] = {value.name: [None] for value in out.graph.output}
    for node in out.graph.node:
        for inner in bodies_of(node):
            for name in set(names_captured(inner)):
                readers.setdefault(name, []).append(inner)
        for name in node.input:
            readers.setdefault(name, []).append(None)
    tensors = list(out.graph.initializer)
    del out.graph.initializer[:]
    for tensor in tensors:
        body, *others = readers.get(tensor.name, [None])
        if body is None or others or tensor.name in given:
            out.graph.initializer.append(tensor)
            continue
        if uses_external_data(tensor):
            fill(tensor, light.weights[tensor.name].tobytes())
        body.initializer.append(tensor)
    return replace(light, proto=out)


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Sort nodes so that makers precede readers; a sorted list stays as it is."""
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [
        {maker[name] for name in (*node.input, *names_in_subgraphs(node)) if name in maker}
        for node in nodes
    ]
    if all(max(need, default=-1) < place for place, need in enumerate(needs)):
        return list(nodes)
    order = TopologicalSorter(dict(enumerate(needs))).static_order()
    return [nodes[place] for place in order]
