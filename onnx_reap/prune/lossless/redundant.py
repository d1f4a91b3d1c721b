"""Channels that another one makes up for exactly, at every layer that reads them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.branches import NONE, Branches
from onnx_reap.graph.edit.absorb import Absorbed, Read
from onnx_reap.graph.edit.weights import has_plain_bias
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.prune.lossless.follow import Follower
from onnx_reap.prune.lossless.mixing import keeps_constants
from onnx_reap.prune.lossless.rows import SAME
from onnx_reap.prune.lossless.values import Form

DEAD, DUPLICATE, DEPENDENT = "dead", "duplicate", "dependent"
KINDS = (DEAD, DUPLICATE, DEPENDENT)


@dataclass(frozen=True)
class Redundant:
    """One unit that can go."""

    unit: int
    # `dead` holds constants or is read by nobody, a `duplicate` holds what another unit does, and
    # what is `dependent` holds a multiple of another one, or differs from it by a constant
    kind: str
    absorbed: tuple[Absorbed, ...]  # By whom, at each layer that reads it


@dataclass(frozen=True)
class _Slot:
    """A place of units at a layer that reads them."""

    read: Read
    positions: np.ndarray  # (n,) int: by unit
    form: Form
    exact: bool  # Whether constants can go to the layer's bias

    @property
    def parts(self) -> np.ndarray:
        """The part of a grouped convolution that reads each unit, (n,) int array."""
        return self.positions // self.read.per_part

    @property
    def fixed(self) -> np.ndarray:
        """Constants that no bias can take, (n,) float array."""
        return np.zeros_like(self.form.offset) if self.exact else self.form.offset


def find_redundant(
    model: Model, probe: Probe, flow: Flow, groups: Sequence[Group], branches: Branches = NONE
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
    along = [unit for index in branches.taken_along(gone) for unit in groups[index].units]
    found = [each for redundant in by_group for each in redundant]
    return found + [Redundant(unit, DEAD, ()) for unit in along if unit not in study.removed]


class _Study:
    """A model whose groups are looked at one by one.

    Attributes
    ----------
    removed : list of int
        Units that go.
    """

    def __init__(self, model: Model, probe: Probe, flow: Flow) -> None:
        self._model, self._probe, self._flow = model, probe, flow
        self._follower = Follower(model, probe, flow)
        self._uses = Counter(node.inputs[1].name for node in model.nodes if len(node.inputs) > 1)
        self.removed: list[int] = []

    def redundant(self, group: Group) -> list[Redundant]:
        """Find a group's redundant units."""
        flow = self._flow
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
            settled = self._follower.signals.settled(self._follower.form(linear.x, linear.x_axis))
            exact = keeps_constants(linear, model.node(linear.node))
            exact = exact and has_plain_bias(model, linear) and self._uses[linear.weight] == 1
            left = ~np.isin(self._flow.units_along(linear.y, linear.y_axis), self.removed)
            inputs = self._probe.shapes[linear.x][linear.x_axis]
            weight = model.constants()[linear.weight].values
            read = Read(linear, weight, left, inputs // linear.group)
            order = np.argsort(labels, kind="stable")
            starts = np.searchsorted(labels[order], units)
            for place in range(int((labels == units[0]).sum())):
                positions = order[starts + place]
                slots.append(_Slot(read, positions, settled.at(positions), exact))
        return slots


def _of_class(units: Sequence[int], slots: Sequence[_Slot]) -> list[Redundant]:
    """Find redundant units among some that occur in the same places."""
    found = []
    representatives: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(units)):
        if not any(slot.read.reads(int(slot.positions[i])) for slot in slots):
            found.append(_redundant(i, DEAD, {}, units, slots))
            continue
        if all(slot.form.constant[i] and not slot.fixed[i] for slot in slots):
            found.append(_redundant(i, DEAD, {}, units, slots))
            continue
        key = tuple(int(n) for slot in slots for n in (slot.form.signal[i], slot.parts[i]))
        others = representatives.setdefault(key, [])
        factors = ((k, _factor(i, k, slots)) for k in others)
        target = next(((k, factor) for k, factor in factors if factor is not None), None)
        if target is None:
            others.append(i)
        else:
            kind = DUPLICATE if target[1] == 1 else DEPENDENT
            found.append(_redundant(i, kind, dict([target]), units, slots))
    return found


def _factor(i: int, k: int, slots: Sequence[_Slot]) -> float | None:
    """Return by what to multiply unit k to get unit i at every slot; None if there is no such."""
    pairs = [
        (float(values[i]), float(values[k]))
        for slot in slots
        for values in (slot.form.scale, slot.fixed)
        if values[i] or values[k]
    ]
    if not all(b for _, b in pairs):
        return None
    ratios = [a / b for a, b in pairs]
    factor = 1.0 if abs(ratios[0] - 1) <= SAME else ratios[0]
    alike = all(abs(ratio - factor) <= SAME * abs(factor) for ratio in ratios)
    return factor if factor and alike else None


def _redundant(
    i: int, kind: str, into: Mapping[int, float], units: Sequence[int], slots: Sequence[_Slot]
) -> Redundant:
    absorbed = []
    for slot in slots:
        offset = slot.form.offset
        constant = float(offset[i] - sum(factor * offset[k] for k, factor in into.items()))
        by = {int(slot.positions[k]): factor for k, factor in into.items()}
        near = not slot.exact or abs(constant) <= SAME * abs(offset[i])
        absorbed.append(Absorbed(slot.read, int(slot.positions[i]), by, 0.0 if near else constant))
        if not near and kind == DUPLICATE:
            kind = DEPENDENT
    return Redundant(units[i], kind, tuple(absorbed))


def _balanced(group: Group, redundant: Sequence[Redundant]) -> list[Redundant]:
    """Keep a unit of each part, and take equally many from all; the simplest ones first."""
    part = dict(zip(group.units, group.parts or [0] * group.width, strict=True))
    by_part: dict[int, list[Redundant]] = {p: [] for p in part.values()}
    for each in sorted(redundant, key=lambda each: KINDS.index(each.kind)):
        by_part[part[each.unit]].append(each)
    size = group.width // len(by_part)
    count = min(size - 1, *(len(each) for each in by_part.values()))
    return [each for members in by_part.values() for each in members[:count]]
