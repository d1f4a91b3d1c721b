"""A first look at a model: what could be pruned, what could not, and why."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_reap import __version__
from onnx_reap.graph.analysis import Analysis, count_parameters
from onnx_reap.graph.branches import OTHER, find_holders
from onnx_reap.graph.cost import layer_macs
from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.records import Linear
from onnx_reap.prune.goal import nothing_to_prune
from onnx_reap.report.inspection import (
    FrozenReason,
    InspectedBranch,
    InspectedGroup,
    Inspection,
    Sizes,
)
from onnx_reap.report.text import NORMAL_REASONS, by_reason

Pair = npt.NDArray[np.float64]
"""Multiply-accumulates and parameters."""


def make_inspection(
    analysis: Analysis, widths: Sequence[npt.NDArray[np.int64]], settings: Mapping[str, Any]
) -> Inspection:
    """Describe a model's channels, and what each group of them makes up of the model.

    Parameters
    ----------
    widths : sequence of int arrays
        By group, the widths that it may take, ascending.
    """
    narrowest = np.array([choices[0] for choices in widths], np.int64)
    by_group, by_frozen = _shares(analysis)
    # Copies of a vector that cuts would tell apart are written once while they are equal.
    macs = analysis.macs.at(analysis.full_widths)
    total = np.array([macs, count_parameters(analysis.light)], np.float64)
    others = total - by_group.sum(axis=0)
    others -= np.sum([np.zeros(2), *by_frozen.values()], axis=0)
    return Inspection(
        version=__version__,
        settings=settings,
        total=_rounded(total),
        least=_rounded(_at(analysis, narrowest)),
        groups=_groups(analysis, widths, by_group),
        branches=_branches(analysis, narrowest),
        frozen=_frozen(analysis.frozen, by_frozen),
        others=_rounded(np.maximum(others, 0)),
        nothing=None if analysis.groups else str(nothing_to_prune(analysis, settings)),
    )


def _at(analysis: Analysis, widths: npt.NDArray[np.int64]) -> Pair:
    return np.array([analysis.macs.at(widths), analysis.params.at(widths)], np.float64)


def _rounded(pair: Pair) -> Sizes:
    return Sizes(*(round(float(value)) for value in pair))


def _without(analysis: Analysis, widths: npt.NDArray[np.int64]) -> Sizes:
    """Return what is saved at widths of shape (groups,)."""
    return _rounded(_at(analysis, analysis.full_widths) - _at(analysis, widths))


# Shares: whose channels the layers make.


def _shares(analysis: Analysis) -> tuple[Pair, dict[FrozenChannels, Pair]]:
    """Divide what layers cost among the channels that they make.

    Returns
    -------
    (groups, 2) float array, and an array of shape (2,) by frozen channels
    """
    flow = analysis.flow
    group_of = {unit: g for g, group in enumerate(analysis.groups) for unit in group.units}
    by_group = np.zeros((len(analysis.groups), 2))
    inside = analysis.bodies.macs
    by_frozen = {row: np.array([inside.get(row, 0.0), 0.0]) for row in analysis.frozen}
    for linear, sizes in zip(flow.linears, _layer_sizes(analysis), strict=True):
        units = flow.units_along(linear.y, linear.y_axis).tolist()
        counts = Counter(group_of.get(unit, OTHER) for unit in units)
        stuck = counts.pop(OTHER, 0)
        for group, count in counts.items():
            by_group[group] += sizes * count / len(units)
        rows = list(_frozen_behind(analysis, linear)) if stuck else []
        channels = sum(row.channels for row in rows)
        for row in rows:
            by_frozen[row] += sizes * stuck / len(units) * row.channels / channels
    return by_group, by_frozen


def _layer_sizes(analysis: Analysis) -> Iterator[Pair]:
    """Yield what each linear layer costs; the first of several has the weights that they share."""
    constants, seen = analysis.model.constants(), set[str]()
    macs = layer_macs(analysis.probe, analysis.flow, analysis.groups)
    for linear, count in zip(analysis.flow.linears, macs, strict=True):
        own = {name for name in (linear.weight, linear.bias) if name in constants} - seen
        seen |= own
        held = [constants[name] for name in own if is_floating(constants[name])]
        yield np.array([count, sum(np.prod(constant.shape) for constant in held)], np.float64)


def _frozen_behind(analysis: Analysis, linear: Linear) -> Iterator[FrozenChannels]:
    """Find the frozen channels that a layer makes, or passes on if it makes none (depthwise)."""
    todo = [analysis.model.node(linear.node)]
    seen = {id(todo[0])}
    while todo:
        node = todo.pop()
        key = analysis.model.keys[id(node)]
        if key in analysis.flow.members:
            yield from (row for row in analysis.frozen if row.node == key)
            continue
        makers = [maker for tensor in node.inputs for maker in tensor.inputs]
        todo += (new := [maker for maker in makers if id(maker) not in seen])
        seen.update(map(id, new))


# Records.


def _groups(
    analysis: Analysis, widths: Sequence[npt.NDArray[np.int64]], shares: Pair
) -> tuple[InspectedGroup, ...]:
    full, ties = analysis.full_widths, _ties(analysis)
    groups = []
    for index, (group, choices) in enumerate(zip(analysis.groups, widths, strict=True)):
        alone = full.copy()
        alone[index] = choices[0]
        groups.append(
            InspectedGroup(
                group.name,
                group.width,
                min(group.spans),
                tuple(choices.tolist()),
                group.producers,
                group.consumers,
                ties[index],
                _rounded(shares[index]),
                _without(analysis, alone),
            )
        )
    return tuple(groups)


def _ties(analysis: Analysis) -> list[tuple[str, ...]]:
    """List, by group, the nodes where several tensors meet that hold its channels."""
    model, flow = analysis.model, analysis.flow
    holders = find_holders(flow, analysis.groups)
    ties: list[list[str]] = [[] for _ in analysis.groups]
    for node in model.nodes:
        units = [
            set(flow.units_along(name, flow.axes[name]).tolist())
            for name in dict.fromkeys(tensor.name for tensor in node.inputs)
            if name in holders
        ]
        twice = {unit for unit, n in Counter(u for each in units for u in each).items() if n > 1}
        for index, group in enumerate(analysis.groups if twice else ()):
            if not twice.isdisjoint(group.units):
                ties[index].append(model.keys[id(node)])
    return [tuple(names) for names in ties]


def _branches(analysis: Analysis, narrowest: npt.NDArray[np.int64]) -> tuple[InspectedBranch, ...]:
    """List the branches that may vanish."""
    branches = []
    for branch in analysis.branches.every:
        if narrowest[branch.group] == 0:
            gone = sorted(analysis.branches.vanishing_with([branch.group]))
            widths = analysis.full_widths
            widths[gone] = 0
            along = tuple(analysis.groups[g].name for g in gone if g != branch.group)
            joins = tuple(dict.fromkeys(join.edge[0] for join in branch.joins))
            name = analysis.groups[branch.group].name
            branches.append(InspectedBranch(name, along, joins, _without(analysis, widths)))
    return tuple(branches)


def _frozen(
    frozen: Sequence[FrozenChannels], shares: dict[FrozenChannels, Pair]
) -> tuple[FrozenReason, ...]:
    """Collect frozen channels by reason, the costliest first."""
    reasons = []
    for reason, rows in by_reason(frozen).items():
        rows.sort(key=lambda row: -shares[row][0])
        reasons.append(
            FrozenReason(
                reason,
                reason in NORMAL_REASONS,
                sum(row.channels for row in rows),
                # Layers of one name, in the branches of an If, have equal rows, and one share.
                _rounded(np.sum([shares[row] for row in dict.fromkeys(rows)], axis=0)),
                tuple(rows),
            )
        )
    return tuple(sorted(reasons, key=lambda each: -each.share.macs))
