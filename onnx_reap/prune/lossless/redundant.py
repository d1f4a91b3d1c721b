"""Channels that another one makes up for exactly, at every layer that reads them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.branches import Branches
from onnx_reap.graph.edit.absorb import Absorbed, Read
from onnx_reap.graph.edit.weights import has_plain_bias
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.prune.lossless.follow import Follower
from onnx_reap.prune.lossless.mixing import keeps_constants
from onnx_reap.prune.lossless.values import Content, alike

DEAD, DUPLICATE = "dead", "duplicate"


@dataclass(frozen=True)
class Redundant:
    """One unit that can go."""

    unit: int
    kind: str  # `dead` holds constants or is read by nobody, a `duplicate` what another unit does
    absorbed: tuple[Absorbed, ...]  # By whom, at each layer that reads it


@dataclass(frozen=True)
class _Slot:
    """A place of units at a layer that reads them."""

    read: Read
    positions: np.ndarray  # (n,) int: by unit
    content: Content
    exact: bool  # Whether constants can go to the layer's bias

    @property
    def parts(self) -> np.ndarray:
        """The part of a grouped convolution that reads each unit, (n,) int array."""
        return self.positions // self.read.per_part

    def spares(self, i: int) -> bool:
        """Whether the layer needs nothing of a unit, but for what its bias can take."""
        constant = self.content.signal[i] == 0 and (self.exact or not self.content.constant[i])
        return bool(constant) or not self.read.reads(int(self.positions[i]))

    def without(self, i: int, other: int | None) -> Absorbed:
        """Return how the layer does without a unit, by an equal one if there is one."""
        position = int(self.positions[i])
        if other is not None:
            return Absorbed(self.read, position, (int(self.positions[other]), 1.0), 0.0)
        constant = float(self.content.fixed[i]) if self.exact else 0.0
        return Absorbed(self.read, position, None, constant)


def find_redundant(
    model: Model, probe: Probe, flow: Flow, groups: Sequence[Group], branches: Branches
) -> list[Redundant]:
    """Find units without which the model computes the same, up to rounding.

    Any of them may go, once the layers that read them have absorbed what they bring. Of each group
    one stays at least, unless all are dead and a branch vanishes with them; equally many go from
    parts that must stay equally large.
    """
    study = _Study(model, probe, flow)
    by_group: list[list[Redundant]] = [[] for _ in groups]
    gone: list[int] = []
    for index, group in reversed([*enumerate(groups)]):  # what reads a group may lose outputs
        redundant = study.redundant(group)
        dead = [each for each in redundant if each.kind == DEAD]
        vanishes = index in branches.vanishing and len(dead) == group.width
        by_group[index] = dead if vanishes else _balanced(group, redundant)
        gone += [index] if vanishes else []
        study.removed += [each.unit for each in by_group[index]]
    along = [unit for index in branches.vanishing_with(gone) for unit in groups[index].units]
    found = [each for redundant in by_group for each in redundant]
    return found + [Redundant(unit, DEAD, ()) for unit in along if unit not in study.removed]


class _Study:
    """A model whose groups are looked at one by one."""

    def __init__(self, model: Model, probe: Probe, flow: Flow) -> None:
        self._model, self._probe, self._flow = model, probe, flow
        self._follower = Follower(model, probe, flow)
        self._uses = Counter(node.inputs[1].name for node in model.nodes if len(node.inputs) > 1)
        self.removed: list[int] = []  # Units that go

    def redundant(self, group: Group) -> list[Redundant]:
        """Find a group's redundant units."""
        flow = self._flow
        states = (flow.units_along(each.over, 0) for each in flow.products if each.over)
        if any(np.isin(group.units, state).any() for state in states):
            return []  # units of a hidden state also feed each other
        readers = [
            (linear, flow.units_along(linear.x, linear.x_axis))
            for linear in flow.linears
            if linear.node in group.consumers and not linear.depthwise
        ]
        weights = [self._model.constants()[linear.weight] for linear, _ in readers]
        if not all(is_float(weight.dtype) for weight in weights):
            return []
        classes: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for unit in group.units:
            held = ((linear.node, int((units == unit).sum())) for linear, units in readers)
            classes.setdefault(tuple(each for each in held if each[1]), []).append(unit)
        found: list[Redundant] = []
        for where, units in classes.items():
            nodes = {node for node, _ in where}
            slots = self._slots(units, [each for each in readers if each[0].node in nodes])
            found += _of_class(units, slots)
        return found

    def _slots(
        self, units: Sequence[int], readers: Sequence[tuple[Linear, np.ndarray]]
    ) -> list[_Slot]:
        slots, model = [], self._model
        for linear, labels in readers:
            content = self._follower.content(linear.x, linear.x_axis).settled()
            exact = keeps_constants(linear, model.node(linear.node))
            exact = exact and has_plain_bias(model, linear) and self._uses[linear.weight] == 1
            weight = model.constants()[linear.weight].values
            left = ~np.isin(self._flow.units_along(linear.y, linear.y_axis), self.removed)
            if linear.recurrent:  # outputs are those of all directions; its weight has three axes
                left, exact = np.ones(len(weight), bool), False
            inputs = self._probe.shapes[linear.x][linear.x_axis]
            read = Read(linear, weight, left, inputs // linear.group)
            order = np.argsort(labels, kind="stable")
            starts = np.searchsorted(labels[order], units)
            for place in range(int((labels == units[0]).sum())):
                positions = order[starts + place]
                slots.append(_Slot(read, positions, content.at(positions), exact))
        return slots


def _of_class(units: Sequence[int], slots: Sequence[_Slot]) -> list[Redundant]:
    """Find redundant units among some that occur in the same places."""
    dead = [i for i in range(len(units)) if all(slot.spares(i) for slot in slots)]
    rest = np.setdiff1d(np.arange(len(units)), dead)

    def redundant(i: int, kind: str, other: int | None = None) -> Redundant:
        return Redundant(units[i], kind, tuple(slot.without(i, other) for slot in slots))

    found = [redundant(i, DEAD) for i in dead]
    if not len(rest):
        return found
    kinds = [kind[rest] for slot in slots for kind in (slot.content.signal, slot.parts)]
    first = rest[alike(kinds, [slot.content.fixed[rest] for slot in slots])]
    return found + [
        redundant(i, DUPLICATE, other)
        for i, other in zip(rest.tolist(), first.tolist(), strict=True)
        if i != other
    ]


def _balanced(group: Group, redundant: Sequence[Redundant]) -> list[Redundant]:
    """Keep a unit of each part, and take equally many from all; dead ones first."""
    part = dict(zip(group.units, group.parts or [0] * group.width, strict=True))
    by_part: dict[int, list[Redundant]] = {p: [] for p in part.values()}
    for each in sorted(redundant, key=lambda each: each.kind != DEAD):
        by_part[part[each.unit]].append(each)
    size = group.width // len(by_part)
    count = min(size - 1, *(len(each) for each in by_part.values()))
    return [each for members in by_part.values() for each in members[:count]]
