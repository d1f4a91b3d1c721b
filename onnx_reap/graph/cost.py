"""What the model costs: MACs and parameters as functions of the groups' widths.

MACs are those of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN with a constant weight, for
one sample, and of products of activations; and what the bodies of If, Loop and Scan take, as often
as they ran on the first samples.
Parameters are the elements of all floating-point constants. Entries of other nodes' outputs
tell how the time outside linear layers shrinks. What a vanished branch took along counts nowhere;
the constant that is added in its place is a parameter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from onnx_reap.graph.bodies import count_params_in_bodies
from onnx_reap.graph.branches import Branches
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.records import Binding, Flow, Linear, Product
from onnx_reap.solve.cost import Cost, Extent, Term
from onnx_reap.solve.gates import ALWAYS, Paths, fewest

NO_BODIES: Mapping[str, float] = MappingProxyType({})


def count_macs(
    model: Model,
    probe: Probe,
    flow: Flow,
    groups: Sequence[Group],
    branches: Branches,
    in_bodies: Mapping[str, float] = NO_BODIES,
) -> Cost:
    """Multiply-accumulates per sample, with those in bodies by node."""
    widths = _Widths(flow, groups)
    maker = {t.name: model.keys[id(node)] for node in model.nodes for t in node.outputs}
    counted = [(linear.node, _linear_macs(linear, probe, widths)) for linear in flow.linears]
    counted += [(maker[each.y], _product_macs(each, probe, widths)) for each in flow.products]
    counted += [(node, Term(macs, ())) for node, macs in in_bodies.items()]
    return Cost([replace(t, paths=branches.of(node)) for node, t in counted], len(groups))


def count_params(model: Model, flow: Flow, groups: Sequence[Group], branches: Branches) -> Cost:
    """Elements of floating-point constants."""
    widths = _Widths(flow, groups)
    terms = [*_parameters(model, widths, branches), Term(count_params_in_bodies(model), ())]
    copies = {model.keys[id(node)] for node in model.nodes if model.origin.is_copy(node)}
    for branch in branches.every:
        for join in (each for each in branch.joins if each.edge[0] not in copies):
            # Present where the addition is, unless the branch is, too.
            paths = branches.of(join.edge[0])
            both = fewest(path | {branch.group} for path in paths)
            extent = (widths.along(join.tensor, join.axis),)
            terms += [Term(1.0, extent, paths), Term(-1.0, extent, both)]
    return Cost(terms, len(groups))


def saved_whole(
    flow: Flow,
    probe: Probe,
    groups: Sequence[Group],
    branches: Branches,
    pairs: Sequence[tuple[int, Linear, Linear, int]],
) -> tuple[Cost, Cost]:
    """Tell what is saved where layers that stand as two are left as the one that they were.

    Parameters
    ----------
    pairs : sequence of (int, Linear, Linear, int)
        The group between two layers, these, and the taps of the one that they are made of.

    Returns
    -------
    macs, params : Cost
        To be added to those of the model in which they are two: nothing where such a group is
        narrower than its full width, what is saved, and may be less than 0, otherwise.
    """
    widths = _Widths(flow, groups)
    closed_at = np.zeros(len(groups), np.int64)
    macs: list[Term] = []
    params: list[Term] = []
    for between, first, second, taps in pairs:
        closed_at[between] = groups[between].width
        two = [_linear_macs(each, probe, widths) for each in (first, second)]
        x, y = two[0].extents[0], two[1].extents[1]
        places = two[1].factor / second.taps
        one = Term(places * taps, (x, y))
        paths = branches.of(second.node)
        if_two = fewest(path | {between} for path in paths)
        weights = [
            replace(term, factor=float(each.taps))
            for term, each in zip(two, (first, second), strict=True)
        ]
        for terms, whole, parts in (
            (macs, one, two),
            (params, Term(float(taps), (x, y)), weights),
        ):
            change = [whole, *(replace(part, factor=-part.factor) for part in parts)]
            terms += [replace(term, paths=paths) for term in change]
            terms += [replace(term, factor=-term.factor, paths=if_two) for term in change]
    return Cost(macs, len(groups), closed_at), Cost(params, len(groups), closed_at)


def layer_extents(flow: Flow, groups: Sequence[Group]) -> list[tuple[Extent, Extent]]:
    """Input and output channels of every linear layer, in the order of `flow.linears`."""
    along = _Widths(flow, groups).along
    return [(along(each.x, each.x_axis), along(each.y, each.y_axis)) for each in flow.linears]


def layer_macs(probe: Probe, flow: Flow, groups: Sequence[Group]) -> list[int]:
    """Multiply-accumulates per sample of every linear layer, in the order of `flow.linears`."""
    widths, full = _Widths(flow, groups), np.array([group.width for group in groups], np.int64)
    terms = (_linear_macs(linear, probe, widths) for linear in flow.linears)
    return [Cost([term], len(groups)).at(full) for term in terms]


def count_entries(
    model: Model, probe: Probe, flow: Flow, groups: Sequence[Group], branches: Branches
) -> Cost:
    """Entries of all tensors that nodes other than linear layers make, in one run of the probe."""
    linear = {layer.y for layer in flow.linears}
    widths = _Widths(flow, groups)
    made = [(t.name, model.keys[id(node)]) for node in model.nodes for t in node.outputs]
    sizes = {name: float(np.prod(probe.shapes.get(name, (0,)))) for name, _ in made}
    terms = [
        replace(widths.term(name, sizes[name]), paths=branches.of(node))
        for name, node in made
        if name not in linear
    ]
    return Cost(terms, len(groups))


class _Widths:
    """How long tensors are along their channels, as functions of the groups' widths."""

    def __init__(self, flow: Flow, groups: Sequence[Group]) -> None:
        self.flow = flow
        self._groups = groups
        self._group_of = {unit: g for g, group in enumerate(groups) for unit in group.units}

    def along(self, tensor: str, axis: int) -> Extent:
        """Return the length of an axis."""
        units = self.flow.units_along(tensor, axis)
        counts = np.bincount([self._group_of.get(int(u), -1) + 1 for u in units], minlength=1)
        held = np.flatnonzero(counts[1:]).tolist()
        per_unit = {g: int(counts[g + 1]) / self._groups[g].width for g in held}
        return Extent(int(counts[0]), per_unit)

    def term(self, tensor: str, entries: float, each: float = 1.0) -> Term:
        """Return so many entries of a tensor, each times a number, as they shrink with it."""
        axis = self.flow.axes.get(tensor)
        if axis is None or not entries:
            return Term(entries * each, ())
        length = self.flow.labels[tensor].shape[axis]
        return Term(entries / length * each, (self.along(tensor, axis),))


def _linear_macs(linear: Linear, probe: Probe, widths: _Widths) -> Term:
    side = linear.x if linear.transposed else linear.y
    axis = linear.x_axis if linear.transposed else linear.y_axis
    positions = np.prod(probe.shapes[side]) / probe.shapes[side][axis] / probe.batch
    x, y = widths.along(linear.x, linear.x_axis), widths.along(linear.y, linear.y_axis)
    if linear.depthwise:
        return Term(positions * linear.taps, (y,))
    return Term(positions * linear.taps / linear.group, (x, y))


def _product_macs(product: Product, probe: Probe, widths: _Widths) -> Term:
    entries = np.prod(probe.shapes[product.y]) / probe.batch
    if product.over is None:
        return widths.term(product.y, entries, product.terms)
    axis = len(probe.shapes[product.y]) - 1
    made, read = widths.along(product.y, axis), widths.along(product.over, 0)
    return Term(entries / probe.shapes[product.y][axis] * product.terms, (made, read))


def _parameters(model: Model, widths: _Widths, branches: Branches) -> list[Term]:
    flow = widths.flow
    alike = {
        copy: name
        for copy, name in model.copied.items()
        if flow.followed(copy) == flow.followed(name)
    }
    paths = _paths_of_constants(model, branches, alike)
    bound: dict[str, dict[int, Binding]] = {}
    for binding in flow.bindings:
        bound.setdefault(binding.constant, {})[binding.constant_axis] = binding
    terms = []
    for name, constant in model.constants().items():
        if name in alike or not is_floating(constant):
            continue
        factor, extents = 1.0, []
        for axis, size in enumerate(constant.shape):
            follows = bound.get(name, {}).get(axis)
            if follows is None or flow.axes.get(follows.tensor) != follows.tensor_axis:
                factor *= size
            else:
                factor /= follows.blocks
                extents.append(widths.along(follows.tensor, follows.tensor_axis))
        terms.append(Term(factor, tuple(extents), paths.get(name, ALWAYS)))
    return terms


def _paths_of_constants(
    model: Model, branches: Branches, alike: Mapping[str, str]
) -> dict[str, Paths]:
    """By constant, the paths of all nodes that read it, or a copy that is written with it."""
    paths: dict[str, set[frozenset[int]]] = {t.name: set(ALWAYS) for t in model.graph.outputs}
    for node in model.nodes:
        for name in {t.name for t in node.inputs} | set(captured_tensors([node])):
            paths.setdefault(alike.get(name, name), set()).update(branches.of(model.keys[id(node)]))
    return {name: fewest(each) for name, each in paths.items()}
