"""If nodes of which it is known which branch is taken: its nodes are moved in front of them.

In front of such an If stand the nodes of the branch, and Identities to the names of the If's
results. The If stays behind them, with the other branch as it was, and its own results go nowhere.
So this is a model like any other, in which what the other branch reads has a reader. It gives the
same where the branch is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, helper

from onnx_reap.onnxio.bodies import (
    Edits,
    check_scope,
    constants_as_nodes,
    first_result,
    is_as_it_was,
    serving,
)
from onnx_reap.onnxio.renaming import Names, renamed


@dataclass(frozen=True)
class Moved:
    """An If whose branch stands in front of it."""

    node: NodeProto  # As it was
    holds: bool  # Its condition
    nodes: tuple[NodeProto, ...]  # Of the branch, in front
    joints: tuple[NodeProto, ...]  # Identities from what these make to the results
    results: str  # The If's first result, as it is called now


def take_apart(node: NodeProto, holds: bool, names: Names) -> tuple[Moved, NodeProto]:
    """Return the nodes of a branch as they stand in front of an If, and the If behind them."""
    branch = _branch(node, holds)
    rename = names.without_clashes(branch)
    nodes = (*constants_as_nodes(branch), *branch.node)
    inside = tuple(renamed(each, rename) for each in nodes)
    for each in inside:
        each.name = names.unused_by_nodes(each.name)
    results = [rename(value.name) for value in branch.output]
    stem = node.name or first_result(node)
    joints = tuple(
        helper.make_node("Identity", [inner], [outer], f"{stem}/result_{place}")
        for place, (inner, outer) in enumerate(zip(results, node.output, strict=True))
        if outer
    )
    stays = NodeProto()
    stays.CopyFrom(node)
    del stays.output[:]
    stays.output.extend(names.unused(f"{stem}/unused") for _ in results)
    short = _branch(stays, holds)
    del short.node[:], short.initializer[:], short.sparse_initializer[:], short.value_info[:]
    for value, inner in zip(short.output, results, strict=True):
        value.name = names.unused(f"{stem}/result")
        short.node.append(helper.make_node("Identity", [inner], [value.name]))
    return Moved(node, holds, inside, joints, stays.output[0]), stays


def put_branch_back(nodes: Sequence[NodeProto], moved: Moved, edits: Edits) -> list[NodeProto]:
    """Put the nodes of a branch back, see `onnx_reap.onnxio.followed`."""
    joints = {name for joint in moved.joints for name in joint.output}
    place = next(n for n, node in enumerate(nodes) if first_result(node) == moved.results)
    own_names = {name for node in moved.nodes for name in node.output if name}
    inside = serving(nodes, own_names, edits.made)
    own = [node for n, node in enumerate(nodes) if n in inside]
    check_scope([node for n, node in enumerate(nodes) if n not in inside | {place}], own, joints)
    result = NodeProto()
    result.CopyFrom(moved.node)
    if not is_as_it_was(own, moved.nodes, edits.changed):
        branch, ends = _branch(result, moved.holds), _branch(nodes[place], moved.holds).node
        del branch.node[:], branch.initializer[:], branch.sparse_initializer[:]
        del branch.value_info[:]  # which describes the old sizes
        branch.node.extend(own)
        for value, end in zip(branch.output, ends, strict=True):
            value.name = end.input[0]
    return [
        result if n == place else node
        for n, node in enumerate(nodes)
        if n not in inside and first_result(node) not in joints
    ]


def _branch(node: NodeProto, holds: bool) -> GraphProto:
    name = "then_branch" if holds else "else_branch"
    bodies: dict[str, GraphProto] = {each.name: each.g for each in node.attribute}
    return bodies[name]
