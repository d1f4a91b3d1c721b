"""Residual branches that may vanish: without some group's channels all they add is a constant.

When all channels of a group are gone, a layer that reads nothing else gives its bias, whatever the
model is fed. Operators that treat a channel alone (normalisation, activations, a gate that is
computed from the branch itself) hand a constant on as a constant, up to an addition that joins the
branch with a tensor of the full shape. If the group's channels are read on no other path, all that
computes them serves nobody, and the branch is as good as one number per channel.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_reap.graph.constancy import (
    Join,
    channel_axis,
    constant_values,
    find_joins,
    per_channel,
)
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.ir.wiring import Edge, Wiring
from onnx_reap.graph.labels.records import Flow
from onnx_reap.solve.gates import ALWAYS, Paths, fewest, is_open

OTHER = -1
"""Stands for channels that are in no group."""


@dataclass(frozen=True)
class Branch:
    """What vanishes with all channels of one group."""

    group: int  # Its index
    units: frozenset[int]
    roots: tuple[str, ...]  # Keys of the layers that give their bias alone
    joins: tuple[Join, ...]  # Where the branch is added to something else


@dataclass(frozen=True)
class Branches:
    """All branches that may vanish, in any combination."""

    every: tuple[Branch, ...] = ()
    # By key, the paths from a node to the outputs
    nodes: Mapping[str, Paths] = field(default_factory=dict)
    groups: tuple[Paths, ...] = ()  # By group, the paths of the tensors that hold its channels

    @property
    def vanishing(self) -> frozenset[int]:
        """Groups that may take width 0."""
        return frozenset(branch.group for branch in self.every)

    def of(self, node: str) -> Paths:
        """Return the paths from a node to the outputs."""
        return self.nodes.get(node, ALWAYS)

    def vanished(self, removed: Collection[int]) -> tuple[Branch, ...]:
        """Return the branches all of whose group's units are removed."""
        removed = set(removed)
        return tuple(branch for branch in self.every if branch.units <= removed)

    def vanishing_with(self, vanished: Collection[int]) -> frozenset[int]:
        """Return the groups that vanish when some groups vanish, these included."""
        closed = frozenset(vanished) & self.vanishing
        return closed | {
            g for g, paths in enumerate(self.groups) if paths and not is_open(paths, closed)
        }


def find_branches(
    model: Model,
    probe: Probe,
    flow: Flow,
    groups: Sequence[Group],
    lasting: Collection[str] = (),
) -> Branches:
    """Find the groups that may vanish, later ones first: of several on one branch, the last.

    Any of them may vanish together: at every addition something of the full shape is left. Where
    sizes other than the batch are open, none may: that holds at the sizes that were seen.

    Parameters
    ----------
    lasting : collection of str
        Names of groups that only vanish along with others.
    """
    if _has_open_sizes(model):
        return Branches()
    holders, wiring = find_holders(flow, groups), Wiring(model)
    every: list[Branch] = []
    for index in reversed(range(len(groups))):
        if groups[index].name in lasting:
            continue
        branch = _branch(index, groups[index], wiring, probe, flow, holders)
        if branch is None or _in_the_way(branch, every):
            continue
        settled = _settled(branch, model, probe, flow)
        if settled is not None:
            every.insert(0, settled)
    if not every:
        return Branches()
    edges = {join.edge: branch.group for branch in every for join in branch.joins}
    nodes = paths_out(model, edges)
    paths: list[set[frozenset[int]]] = [set() for _ in groups]
    for node in model.nodes:
        for g in {g for tensor in node.outputs for g in holders.get(tensor.name, ())} - {OTHER}:
            paths[g] |= nodes[model.keys[id(node)]]
    return Branches(tuple(every), nodes, tuple(fewest(each) for each in paths))


def _has_open_sizes(model: Model) -> bool:
    shapes = [tensor.shape for tensor in model.graph.inputs]
    return any(
        shape is None or any(not isinstance(size, int) or size < 1 for size in shape[1:])
        for shape in shapes
    )


def find_holders(flow: Flow, groups: Sequence[Group]) -> dict[str, frozenset[int]]:
    """Return, for every tensor with channels that may go, the groups that these are of.

    Channels in no group count as those of `OTHER`.
    """
    group_of = {unit: g for g, group in enumerate(groups) for unit in group.units}
    return {
        tensor: frozenset(
            group_of.get(unit, OTHER) for unit in np.unique(flow.units_along(tensor, axis)).tolist()
        )
        for tensor, axis in flow.axes.items()
    }


def _branch(
    index: int,
    group: Group,
    wiring: Wiring,
    probe: Probe,
    flow: Flow,
    holders: Mapping[str, frozenset[int]],
) -> Branch | None:
    """Return what a group takes along, if it reaches the outputs through additions alone."""
    roots = [linear for linear in flow.linears if linear.node in group.consumers]
    if not roots or any(holders[root.x] != {index} for root in roots):
        return None
    vanishing = {tensor for tensor, held in holders.items() if index in held}
    joins = find_joins(wiring, probe, flow, vanishing, roots)
    closed = {join.edge for join in joins}
    makers = {wiring.maker[tensor] for tensor in vanishing if tensor in wiring.maker}
    if wiring.reaches_outputs(makers, closed):
        return None
    joins = [j for j in joins if wiring.reaches_outputs([wiring.place[j.edge[0]]], closed)]
    keys = tuple(root.node for root in roots)
    return Branch(index, frozenset(group.units), keys, tuple(joins)) if joins else None


def _in_the_way(branch: Branch, others: Sequence[Branch]) -> bool:
    """Whether an addend would be replaced twice, or an addition be left without any."""
    taken = {(join.edge[0], join.tensor) for other in others for join in other.joins}
    needed = {(join.edge[0], join.beside) for other in others for join in other.joins}
    own = {(join.edge[0], join.tensor) for join in branch.joins}
    beside = {(join.edge[0], join.beside) for join in branch.joins}
    return bool(own & (taken | needed) or beside & taken)


def _settled(branch: Branch, model: Model, probe: Probe, flow: Flow) -> Branch | None:
    """Find out along which axis the constants vary; None where it is not one axis.

    Nor may a branch vanish where nothing tells of what type its constant has to be.
    """
    tensors = [join.tensor for join in branch.joins]
    if any(probe.type_as_given(tensor) is None for tensor in tensors):
        return None
    values = constant_values(model, probe, flow, branch.roots, tensors)
    if values is None:
        return None
    joins = []
    for join in branch.joins:
        axis = join.axis if join.axis >= 0 else channel_axis(values[join.tensor])
        if axis is None or per_channel(values[join.tensor], axis) is None:
            return None
        joins.append(replace(join, axis=axis))
    return replace(branch, joins=tuple(joins))


def paths_out(model: Model, edges: Mapping[Edge, int]) -> dict[str, Paths]:
    """Find the paths from every node to the outputs; what nobody reads counts as an output.

    Parameters
    ----------
    edges : mapping of Edge to int
        Inputs that are closed when a group vanishes.
    """
    behind: dict[str, set[frozenset[int]]] = {t.name: set(ALWAYS) for t in model.graph.outputs}
    found: dict[str, Paths] = {}
    for node in reversed(model.nodes):
        key, read = model.keys[id(node)], [t.name for t in node.outputs if t.name in behind]
        found[key] = fewest(path for name in read for path in behind[name]) if read else ALWAYS
        for place, tensor in ((p, t) for p, t in enumerate(node.inputs) if t.name):
            closing = frozenset({edges[key, place]} if (key, place) in edges else ())
            behind.setdefault(tensor.name, set()).update(path | closing for path in found[key])
        for name in captured_tensors([node]):
            behind.setdefault(name, set()).update(found[key])
    return found
