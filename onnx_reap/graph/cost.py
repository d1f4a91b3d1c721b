"""What the model costs: MACs and parameters as functions of the groups' widths.

MACs are those of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN with a constant weight, for
one sample.
Parameters are the elements of all floating-point constants. Entries of other nodes' outputs
tell how the time outside linear layers shrinks. What a vanished branch took along counts nowhere;
the constant that is added in its place is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.graph.branches import NONE, Branches
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model, captured_tensors, is_floating
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Binding, Flow, Linear, Product
from onnx_reap.solve.cost import Cost, Extent, Term
from onnx_reap.solve.gates import ALWAYS, Ways, fewest


def count_macs(
    model: Model, probe: Probe, flow: Flow, groups: Sequence[Group], branches: Branches = NONE
) -> Cost:
    """Multiply-accumulates per sample."""
    group_of, maker = _group_of(groups), _makers(model)
    terms = [
        replace(_linear_macs(linear, probe, flow, group_of, groups), ways=branches.of(linear.node))
        for linear in flow.linears
    ]
    terms += [
        replace(
            _product_macs(product, probe, flow, group_of, groups),
            ways=branches.of(maker[product.y]),
        )
        for product in flow.products
    ]
    return Cost(terms, len(groups))


def count_params(
    model: Model, flow: Flow, groups: Sequence[Group], branches: Branches = NONE
) -> Cost:
    """Elements of floating-point constants."""
    group_of = _group_of(groups)
    terms = _parameters(model, flow, group_of, groups, branches)
    for branch in branches.every:
        for join in branch.joins:
            # There where the addition is, unless the branch is, too.
            there = branches.of(join.edge[0])
            both = fewest(way | {branch.group} for way in there)
            units = flow.units_along(join.tensor, join.axis)
            extent = (_extent(units, group_of, groups),)
            terms += [Term(1.0, extent, there), Term(-1.0, extent, both)]
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
    group_of = _group_of(groups)
    shut = np.zeros(len(groups), np.int64)
    macs: list[Term] = []
    params: list[Term] = []
    for between, first, second, taps in pairs:
        shut[between] = groups[between].width
        two = [_linear_macs(each, probe, flow, group_of, groups) for each in (first, second)]
        x, y = two[0].extents[0], two[1].extents[1]
        places = two[1].factor / second.taps
        one = Term(places * taps, (x, y))
        there = branches.of(second.node)
        if_two = fewest(way | {between} for way in there)
        weights = [
            replace(term, factor=float(each.taps))
            for term, each in zip(two, (first, second), strict=True)
        ]
        for terms, whole, parts in (
            (macs, one, two),
            (params, Term(float(taps), (x, y)), weights),
        ):
            change = [whole, *(replace(part, factor=-part.factor) for part in parts)]
            terms += [replace(term, ways=there) for term in change]
            terms += [replace(term, factor=-term.factor, ways=if_two) for term in change]
    return Cost(macs, len(groups), shut), Cost(params, len(groups), shut)


def layer_extents(flow: Flow, groups: Sequence[Group]) -> list[tuple[Extent, Extent]]:
    """Input and output channels of every linear layer, in the order of `flow.linears`."""
    group_of = _group_of(groups)
    axes = [((n.x, n.x_axis), (n.y, n.y_axis)) for n in flow.linears]
    return [
        (
            _extent(flow.units_along(*x), group_of, groups),
            _extent(flow.units_along(*y), group_of, groups),
        )
        for x, y in axes
    ]


def layer_macs(probe: Probe, flow: Flow, groups: Sequence[Group]) -> list[int]:
    """Multiply-accumulates per sample of every linear layer, in the order of `flow.linears`."""
    group_of, full = _group_of(groups), np.array([group.width for group in groups], np.int64)
    terms = [_linear_macs(linear, probe, flow, group_of, groups) for linear in flow.linears]
    return [Cost([term], len(groups)).at(full) for term in terms]


def count_entries(
    model: Model, probe: Probe, flow: Flow, groups: Sequence[Group], branches: Branches = NONE
) -> Cost:
    """Entries of all tensors that nodes other than linear layers make, in one run of the probe."""
    linear = {layer.y for layer in flow.linears}
    group_of = _group_of(groups)
    terms = []
    made = [(t.name, model.keys[id(node)]) for node in model.nodes for t in node.outputs]
    for name, node in ((name, node) for name, node in made if name not in linear):
        ways = branches.of(node)
        entries, axis = float(np.prod(probe.shapes.get(name, (0,)))), flow.axes.get(name)
        if axis is None or not entries:
            terms.append(Term(entries, (), ways))
        else:
            units = flow.units_along(name, axis)
            terms.append(Term(entries / len(units), (_extent(units, group_of, groups),), ways))
    return Cost(terms, len(groups))


def _group_of(groups: Sequence[Group]) -> dict[int, int]:
    return {unit: g for g, group in enumerate(groups) for unit in group.units}


def _makers(model: Model) -> dict[str, str]:
    return {t.name: model.keys[id(node)] for node in model.nodes for t in node.outputs}


def _extent(units: np.ndarray, group_of: Mapping[int, int], groups: Sequence[Group]) -> Extent:
    counts = np.bincount([group_of.get(int(unit), -1) + 1 for unit in units], minlength=1)
    per_unit = {g - 1: int(n) / groups[g - 1].width for g, n in enumerate(counts) if g and n}
    return Extent(int(counts[0]), per_unit)


def _linear_macs(
    linear: Linear,
    probe: Probe,
    flow: Flow,
    group_of: Mapping[int, int],
    groups: Sequence[Group],
) -> Term:
    inputs = flow.units_along(linear.x, linear.x_axis)
    outputs = flow.units_along(linear.y, linear.y_axis)
    side = linear.x if linear.transposed else linear.y
    axis = linear.x_axis if linear.transposed else linear.y_axis
    positions = np.prod(probe.shapes[side]) / probe.shapes[side][axis] / probe.batch
    x, y = _extent(inputs, group_of, groups), _extent(outputs, group_of, groups)
    if linear.depthwise:
        return Term(positions * linear.taps, (y,))
    return Term(positions * linear.taps / linear.group, (x, y))


def _product_macs(
    product: Product,
    probe: Probe,
    flow: Flow,
    group_of: Mapping[int, int],
    groups: Sequence[Group],
) -> Term:
    entries = np.prod(probe.shapes[product.y]) / probe.batch
    axis = flow.axes.get(product.y)
    if axis is None:
        return Term(entries * product.terms, ())
    units = flow.units_along(product.y, axis)
    return Term(entries / len(units) * product.terms, (_extent(units, group_of, groups),))


def _parameters(
    model: Model,
    flow: Flow,
    group_of: Mapping[int, int],
    groups: Sequence[Group],
    branches: Branches,
) -> list[Term]:
    ways = _ways_of_constants(model, branches)
    bound: dict[str, dict[int, Binding]] = {}
    for binding in flow.bindings:
        bound.setdefault(binding.constant, {})[binding.constant_axis] = binding
    terms = []
    for name, constant in model.constants().items():
        if not is_floating(constant):
            continue
        factor, extents = 1.0, []
        for axis, size in enumerate(constant.shape):
            follows = bound.get(name, {}).get(axis)
            if follows is None or flow.axes.get(follows.tensor) != follows.tensor_axis:
                factor *= size
            else:
                factor /= follows.blocks
                units = flow.units_along(follows.tensor, follows.tensor_axis)
                extents.append(_extent(units, group_of, groups))
        terms.append(Term(factor, tuple(extents), ways.get(name, ALWAYS)))
    return terms


def _ways_of_constants(model: Model, branches: Branches) -> dict[str, Ways]:
    """By constant, the ways of all nodes that read it."""
    ways: dict[str, set[frozenset[int]]] = {t.name: set(ALWAYS) for t in model.graph.outputs}
    for node in model.nodes:
        for name in {t.name for t in node.inputs} | set(captured_tensors([node])):
            ways.setdefault(name, set()).update(branches.of(model.keys[id(node)]))
    return {name: fewest(each) for name, each in ways.items()}
