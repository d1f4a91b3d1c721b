"""From removed units to a plan, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.cut import group_positions
from onnx_reap.graph.groups import Group
from onnx_reap.graph.labels.kept import Kept, kept_positions
from onnx_reap.graph.labels.records import Linear
from onnx_reap.options import Settings
from onnx_reap.prune.plan import Constants, FrozenPlan, GroupPlan, Plan


def make_plan(analysis: Analysis, removed: Collection[int], settings: Settings) -> Plan:
    """Write down what is removed."""
    groups = tuple(
        GroupPlan(
            group.name,
            group.width,
            tuple(i for i, unit in enumerate(group.units) if unit not in removed),
            group.producers,
            group.consumers,
        )
        for group in analysis.groups
    )
    frozen = tuple(FrozenPlan(f.node, f.channels, f.reason, f.cause) for f in analysis.frozen)
    shapes = {
        tensor.name: shape
        for tensor in analysis.model.graph.inputs
        if (shape := analysis.probe.shapes[tensor.name])
    }
    return Plan(settings.chosen(), groups, _constants(analysis, removed), frozen, shapes)


def removed_by(plan: Plan, analysis: Analysis) -> tuple[int, ...]:
    """Look the channels that a plan removes up in the model.

    Returns
    -------
    tuple of int
        Units.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    if plan.factors:
        raise ReapError(
            f"plan: {plan.factors[0].node} is written in another basis, which takes data to repeat",
            got=f"a plan made with --low-rank, {len(plan.factors)} such layers or groups",
            expected="a plan of channels alone",
            hint="run --low-rank again with the data, or take `factors` out of the plan",
        )
    groups = {group.name: group for group in analysis.groups}
    twice = [name for name, n in Counter(entry.name for entry in plan.groups).items() if n > 1]
    if twice:
        raise ReapError(f"plan: group {twice[0]} is there twice", expected="each group once")
    removed: list[int] = []
    for entry in plan.groups:
        group = groups.get(entry.name)
        if group is None or _described(group, entry) != _described(entry, entry):
            raise ReapError(
                f"plan: group {entry.name} doesn't fit the model",
                got=_described(entry, entry),
                expected="no such group" if group is None else _described(group, entry),
                hint="replay a plan on the model that it was made for",
            )
        _check_kept(group, entry.kept)
        removed += [u for i, u in enumerate(group.units) if i not in set(entry.kept)]
    return _with_taken_along(analysis, removed)


def _with_taken_along(analysis: Analysis, removed: Sequence[int]) -> tuple[int, ...]:
    """Add the channels of groups that vanish with others; refuse groups that can't go alone.

    Raises
    ------
    ReapError
    """
    empty = np.flatnonzero(widths_left(analysis, removed) == 0).tolist()
    along = analysis.branches.taken_along(empty)
    for index in empty:
        if index not in along:
            raise ReapError(
                f"plan: group {analysis.groups[index].name} keeps no channels",
                expected="one at least, since no residual branch vanishes with this group",
            )
    gone = [u for index in sorted(along) for u in analysis.groups[index].units]
    return tuple(dict.fromkeys([*removed, *gone]))


def widths_left(analysis: Analysis, removed: Collection[int]) -> np.ndarray:
    """Count the units that stay, (groups,) int array."""
    gone = set(removed)
    return np.array([sum(u not in gone for u in group.units) for group in analysis.groups])


def _described(group: Group | GroupPlan, entry: GroupPlan) -> str:
    """Tell a group by what an entry of a plan tells: its width at least, and its nodes."""
    told = [f"{group.width} channels"]
    told += ["from " + ", ".join(group.producers)] if entry.producers else []
    told += ["to " + ", ".join(group.consumers)] if entry.consumers else []
    return " ".join(told)


def _check_kept(group: Group, kept: tuple[int, ...]) -> None:
    if not set(kept) <= set(range(group.width)):
        raise ReapError(
            f"plan: group {group.name} keeps channels that don't exist",
            got=str(list(kept))[:80],
            expected=f"some of 0 to {group.width - 1}",
        )
    if group.parts is not None:
        counts = np.bincount(np.asarray(group.parts)[list(kept)], minlength=group.step)
        if (counts != counts[0]).any():
            raise ReapError(
                f"plan: group {group.name} must keep equally many channels in each part",
                got=", ".join(map(str, counts)),
                expected="equal numbers",
            )


def _constants(analysis: Analysis, removed: Collection[int]) -> Constants:
    """List the indices that stay of every constant that loses some, by axis."""
    kept = kept_positions(analysis.flow, removed)
    constants: dict[str, dict[str, list[int] | list[list[int]]]] = {}
    for binding in analysis.flow.bindings:
        cut = kept.get(binding.tensor)
        if cut is not None and cut[0] == binding.tensor_axis and binding.blocks == 1:
            axes = constants.setdefault(binding.constant, {})
            axes[str(binding.constant_axis)] = cut[1].tolist()
    for linear in analysis.flow.linears:
        if linear.group > 1 and not linear.depthwise:
            _add_blockwise(constants, linear, analysis, kept)
    return constants


def _add_blockwise(
    constants: dict[str, dict[str, list[int] | list[list[int]]]],
    linear: Linear,
    analysis: Analysis,
    kept: Kept,
) -> None:
    """Add the axis of a grouped convolution's weight of which every group keeps its own indices."""
    cut_side = linear.y if linear.transposed else linear.x
    if cut_side not in kept:
        return
    shapes = analysis.probe.shapes
    inputs, outputs = shapes[linear.x][linear.x_axis], shapes[linear.y][linear.y_axis]
    positions = group_positions(linear, kept, inputs, outputs)
    axis = linear.weight_out if linear.transposed else linear.weight_in
    constants.setdefault(linear.weight, {})[str(axis)] = [
        (out if linear.transposed else into).tolist() for into, out in positions
    ]
