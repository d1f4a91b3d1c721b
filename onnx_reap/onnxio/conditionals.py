"""If nodes of which it is known which branch is taken: its nodes are moved in front of them.

In front of such an If stand the nodes of the branch, and Identities to the names of the If's
results. The If stays behind them, with the other branch as it was, and its own results go nowhere.
So this is a model like any other, in which what the other branch reads has a reader. It gives the
same where the branch is taken.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import onnx
from onnx import GraphProto, NodeProto, helper

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.extract import graphs, names_defined, names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.renaming import free_name, renamed

Taken = Mapping[str, bool]
"""Whether the condition of an If holds, by the name of its first result."""


@dataclass(frozen=True)
class Moved:
    """An If whose branch stands in front of it."""

    node: NodeProto  # As it was
    holds: bool  # Its condition
    nodes: tuple[NodeProto, ...]  # Of the branch, in front
    joints: tuple[NodeProto, ...]  # Identities from what these make to the results
    results: str  # The If's first result, as it is called now


def first_result(node: NodeProto) -> str:
    """Return the name by which a node is known: that of its first result."""
    return next((name for name in node.output if name), "")


def with_branches_in_front(light: LightModel, taken: Taken) -> tuple[LightModel, tuple[Moved, ...]]:
    """Move the nodes of branches in front of their If, those of Ifs in them too.

    Initializers of a branch become Constant nodes. Names that are used elsewhere too are replaced.
    """
    if not taken:
        return light, ()
    out = onnx.ModelProto()
    out.CopyFrom(light.proto)
    names = _Names(light.graph)
    todo, nodes, moved = deque(light.graph.node), list[NodeProto](), list[Moved]()
    while todo:
        node = todo.popleft()
        holds = taken.get(first_result(node)) if node.op_type == "If" else None
        if holds is None:
            nodes.append(node)
            continue
        found, stays = _take_apart(node, holds, names)
        moved.append(found)
        todo.extendleft(reversed([*found.nodes, *found.joints, stays]))
    if unmet := taken.keys() - {first_result(each.node) for each in moved}:
        raise ReapError("the model has no If of these results", got=", ".join(sorted(unmet)))
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return replace(light, proto=out), tuple(moved)


def with_branches_inside(
    nodes: Sequence[NodeProto], moved: Sequence[Moved], known: Set[str], changed: Set[str]
) -> list[NodeProto]:
    """Put nodes back into their branches, with new ones that only serve these.

    Parameters
    ----------
    known : set of str
        What the nodes of the model made when it was read.
    changed : set of str
        Constants that have other values since.
    """
    back = list(nodes)
    for each in reversed(moved):  # those inside of others first
        back = _put_back(back, each, known, changed)
    return back


def _take_apart(node: NodeProto, holds: bool, names: "_Names") -> tuple[Moved, NodeProto]:
    branch = _branch(node, holds)
    rename = names.without_clashes(branch)
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in branch.initializer
    ]
    constants += [
        helper.make_node("Constant", [], [tensor.values.name], sparse_value=tensor)
        for tensor in branch.sparse_initializer
    ]
    inside = tuple(renamed(each, rename) for each in (*constants, *branch.node))
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


def _put_back(
    nodes: Sequence[NodeProto], moved: Moved, known: Set[str], changed: Set[str]
) -> list[NodeProto]:
    joints = {name for joint in moved.joints for name in joint.output}
    place = next(n for n, node in enumerate(nodes) if first_result(node) == moved.results)
    inside = _serving(nodes, moved, known)
    own = [node for n, node in enumerate(nodes) if n in inside]
    _check_scope([node for n, node in enumerate(nodes) if n not in inside | {place}], own, joints)
    result = NodeProto()
    result.CopyFrom(moved.node)
    if not _is_as_it_was(own, moved, changed):
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


def _serving(nodes: Sequence[NodeProto], moved: Moved, known: Set[str]) -> set[int]:
    """Return the places of nodes that a branch had, and of new ones that only these read."""
    own = {name for node in moved.nodes for name in node.output if name}
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


def _check_scope(others: Sequence[NodeProto], own: Sequence[NodeProto], joints: Set[str]) -> None:
    """Refuse nodes outside of a branch that read what it makes, but for those of its results."""
    made = {name for node in own for name in node.output if name}
    for node in (each for each in others if joints.isdisjoint(each.output)):
        if read := made.intersection([*node.input, *names_in_subgraphs(node)]):
            raise ReapError(
                f"{node.name or first_result(node)} reads inside a branch of an If",
                got=", ".join(sorted(read)),
                expected="results of the If alone",
                hint="report the model's structure as a bug; --exclude the layers of the branch",
            )


def _is_as_it_was(nodes: Sequence[NodeProto], moved: Moved, changed: Set[str]) -> bool:
    """Whether a branch would give the same with all nodes that it had.

    Those that are left out were folded. Of the others only constants inside of the branch matter:
    it reads the rest by name.
    """
    given = {first_result(node): node for node in moved.nodes}
    left = {first_result(node) for node in nodes}
    inside = {name for node in nodes for name in node.input} & given.keys()
    folded = {name for out, node in given.items() if out not in left for name in node.input}
    return not (inside | folded) & changed and all(given.get(first_result(n)) == n for n in nodes)


def _branch(node: NodeProto, holds: bool) -> GraphProto:
    name = "then_branch" if holds else "else_branch"
    bodies: dict[str, GraphProto] = {each.name: each.g for each in node.attribute}
    return bodies[name]


class _Names:
    """The names of all tensors of a model, those of bodies too."""

    def __init__(self, graph: GraphProto) -> None:
        self._defined = Counter(name for each in graphs(graph) for name in names_defined(each))
        self._nodes = {node.name for node in graph.node}

    def without_clashes(self, branch: GraphProto) -> Callable[[str], str]:
        """Return new names for the tensors of a branch that have the names of others."""
        own = dict.fromkeys(names_defined(branch))
        new = {name: self.unused(name) for name in own if self._defined[name] > 1}
        return lambda name: new.get(name, name)

    def unused(self, name: str) -> str:
        """Return a name that no tensor has, and count it as taken from now on."""
        free = free_name(name, self._defined.keys())
        self._defined[free] += 1
        return free

    def unused_by_nodes(self, name: str) -> str:
        """Return a name that no node in front has, and count it as taken; none stays none."""
        free = name and free_name(name, self._nodes)
        self._nodes.add(free)
        return free
