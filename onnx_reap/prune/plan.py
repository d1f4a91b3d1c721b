"""The plan: which channels stay, as a file that people can read, edit and replay.

`make_plan` writes removed units down, `removed_by` looks them up again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.edit.cut import group_positions
from onnx_reap.graph.groups import FrozenChannels, Group
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.kept import Kept, kept_positions
from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.files import read_text
from onnx_reap.options import Settings
from onnx_reap.prune.form import Factorised, widths_left, with_dependents

SCHEMA = 1

Constants = Mapping[str, Mapping[str, list[int] | list[list[int]]]]
"""By constant and axis, the indices that stay; a list for each group where groups differ."""


@dataclass(frozen=True)
class GroupPlan:
    """One channel group."""

    name: str
    width: int  # Units in the group
    kept: tuple[int, ...]  # Units that stay, ascending, counted from 0 in channel order
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True)
class FactorPlan:
    """A layer that became two, or a group in another basis, with so many coordinates."""

    node: str
    scheme: str
    rank: int


@dataclass(frozen=True)
class Plan:
    """What a run decided.

    Attributes
    ----------
    settings : mapping of str to object
        Those that differ from the defaults; replaying reads `include` and `exclude` alone, on which
        the groups depend.
    groups : tuple of GroupPlan
    constants : mapping of str to mapping of str to list of int, or of lists of int
        By constant and axis, the indices that stay; for the axis of a grouped convolution's weight
        that lies within its groups, a list for each group. For other tools; replaying derives them.
    frozen : tuple of FrozenChannels
    input_shapes : mapping of str to tuple of int
        By input, what the model was analysed on, batch included; replaying takes from here the
        sizes that the model leaves open.
    input_values : mapping of str to number or str
        By input, what all samples have, where branches of an If may follow from it.
    factors : tuple of FactorPlan
        Layers that became two, and groups in another basis. To replay these takes data.
    """

    settings: Mapping[str, Any]
    groups: tuple[GroupPlan, ...]
    constants: Constants
    frozen: tuple[FrozenChannels, ...]
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input_values: Mapping[str, int | float | str] = field(default_factory=dict)
    factors: tuple[FactorPlan, ...] = ()

    def to_json(self) -> str:
        """Write the plan as text."""
        content = {
            "schema": SCHEMA,
            "settings": dict(self.settings),
            "input_shapes": dict(self.input_shapes),
            "groups": [vars(group) for group in self.groups],
            "constants": self.constants,
            "frozen": [vars(frozen) for frozen in self.frozen],
        }
        if self.input_values:
            content["input_values"] = dict(self.input_values)
        if self.factors:
            content["factors"] = [vars(factor) for factor in self.factors]
        return json.dumps(content, indent=1, default=str) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "plan") -> Plan:
        """Read a plan from text.

        Raises
        ------
        ReapError
            If the text is not a plan of this schema.
        """
        try:
            content = json.loads(text)
            if content["schema"] != SCHEMA:
                raise ReapError(
                    f"{source}: another schema",
                    got=str(content["schema"]),
                    expected=str(SCHEMA),
                    hint="make the plan again with this version",
                )
            groups = tuple(_group(g) for g in content["groups"])
            frozen = tuple(FrozenChannels(**f) for f in content.get("frozen", ()))
            factors = tuple(FactorPlan(**f) for f in content.get("factors", ()))
            settings, constants = dict(content["settings"]), dict(content["constants"])
            shapes = {n: _shape(n, s) for n, s in dict(content.get("input_shapes", {})).items()}
            values = dict(content.get("input_values", {}))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ReapError(
                f"{source}: not a plan",
                got=f"{type(error).__name__}: {error}",
                expected="a file written by --plan",
                hint="--plan writes one beside the pruned model",
            ) from None
        return Plan(settings, groups, constants, frozen, shapes, values, factors)

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan from a file."""
        return Plan.from_json(read_text("plan", path), f"plan {path}")


def _shape(name: str, sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or any(type(size) is not int or size < 1 for size in sizes):
        raise TypeError(f"input shape of {name} is not a list of whole numbers")
    return tuple(sizes)


def _group(entry: Mapping[str, Any]) -> GroupPlan:
    kept = entry["kept"]
    if not isinstance(kept, list) or any(type(index) is not int for index in kept):
        raise TypeError(f"kept of group {entry['name']} is not a list of whole numbers")
    return GroupPlan(
        str(entry["name"]),
        int(entry["width"]),
        tuple(sorted(kept)),
        tuple(entry.get("producers", ())),
        tuple(entry.get("consumers", ())),
    )


def make_plan(
    analysis: Analysis,
    removed: Collection[int],
    settings: Settings,
    factors: Iterable[Factorised] = (),
) -> Plan:
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
    shapes = {
        tensor.name: shape
        for tensor in analysis.model.graph.inputs
        if (shape := analysis.probe.shapes[tensor.name])
    }
    return Plan(
        settings.chosen(),
        groups,
        _constants(analysis, removed),
        analysis.frozen,
        shapes,
        analysis.input_values,
        tuple(FactorPlan(each.node, each.scheme, each.rank) for each in factors),
    )


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
    _check_empty(analysis, removed)
    return with_dependents(analysis, removed)


def _check_empty(analysis: Analysis, removed: Sequence[int]) -> None:
    """Refuse to empty groups that can't vanish."""
    empty = np.flatnonzero(widths_left(analysis, removed) == 0).tolist()
    along = analysis.branches.vanishing_with(empty)
    for index in empty:
        if index not in along:
            raise ReapError(
                f"plan: group {analysis.groups[index].name} keeps no channels",
                expected="one at least, since no residual branch vanishes with this group",
            )


def _described(group: Group | GroupPlan, entry: GroupPlan) -> str:
    """Tell a group by what an entry of a plan tells: its width at least, and its nodes."""
    parts = [f"{group.width} channels"]
    parts += ["from " + ", ".join(group.producers)] if entry.producers else []
    parts += ["to " + ", ".join(group.consumers)] if entry.consumers else []
    return " ".join(parts)


def _check_kept(group: Group, kept: tuple[int, ...]) -> None:
    if len(set(kept)) < len(kept):
        raise ReapError(
            f"plan: group {group.name} keeps a channel twice",
            got=str(list(kept))[:80],
            expected="each channel once",
            hint="leave out what is there twice",
        )
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
        within_groups = linear.y if linear.transposed else linear.x
        if linear.group > 1 and not linear.depthwise and within_groups in kept:
            axis = linear.weight_out if linear.transposed else linear.weight_in
            own = _by_group(linear, analysis.probe, kept)
            constants.setdefault(linear.weight, {})[str(axis)] = own
    return constants


def _by_group(linear: Linear, probe: Probe, kept: Kept) -> list[list[int]]:
    """List what stays in each group, along the axis of the weight that lies within groups."""
    shapes = probe.shapes
    inputs, outputs = shapes[linear.x][linear.x_axis], shapes[linear.y][linear.y_axis]
    positions = group_positions(linear, kept, inputs, outputs)
    return [(out if linear.transposed else into).tolist() for into, out in positions]
