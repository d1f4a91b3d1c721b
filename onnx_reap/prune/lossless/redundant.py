"""Channels that the others make up for exactly, at every layer that reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from onnx_reap.data.spec import is_float
from onnx_reap.graph.branches import NONE, Branches
from onnx_reap.graph.edit.absorb import Absorbed, Read
from onnx_reap.graph.edit.weights import has_plain_bias
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.prune.lossless.follow import Follower
from onnx_reap.prune.lossless.mixing import keeps_constants
from onnx_reap.prune.lossless.rows import SAME, ZERO, combinations, norms_of
from onnx_reap.prune.lossless.values import Form, Place, Signals

DEAD, DUPLICATE, DEPENDENT = "dead", "duplicate", "dependent"
KINDS = (DEAD, DUPLICATE, DEPENDENT)


@dataclass(frozen=True)
class Redundant:
    """One unit that can go.

    Attributes
    ----------
    unit : int
    kind : str
        `dead` holds constants or is read by nobody, a `duplicate` holds what another unit does, and
        what is `dependent` holds a combination of others, a multiple of one for instance.
    absorbed : tuple of Absorbed
        By whom, at each layer that reads it.
    """

    unit: int
    kind: str
    absorbed: tuple[Absorbed, ...]


@dataclass(frozen=True)
class _Slot:
    """A place of units at a layer that reads them.

    Attributes
    ----------
    read : Read
    positions : (n,) int array
        By unit.
    form : Form
    exact : bool
        Whether constants can go to the layer's bias.
    """

    read: Read
    positions: np.ndarray
    form: Form
    exact: bool

    @property
    def parts(self) -> np.ndarray:
        """The part of a grouped convolution that reads each unit, (n,) int array."""
        return self.positions // self.read.per_part


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
        if not all(is_float(np.dtype(weight.dtype)) for weight in weights):
            return []
        classes: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for unit in group.units:
            held = ((linear.node, int((units == unit).sum())) for linear, units in readers)
            classes.setdefault(tuple(each for each in held if each[1]), []).append(unit)
        found: list[Redundant] = []
        for where, units in classes.items():
            nodes = {node for node, _ in where}
            slots = self._slots(units, [each for each in readers if each[0].node in nodes])
            found += _of_class(units, slots, self._follower.signals)
        return found

    def _slots(
        self, units: Sequence[int], readers: Sequence[tuple[Linear, np.ndarray]]
    ) -> list[_Slot]:
        slots, model = [], self._model
        for linear, labels in readers:
            form = self._follower.form(linear.x, linear.x_axis)
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
                slots.append(_Slot(read, positions, form.at(positions), exact))
        return slots


def _of_class(units: Sequence[int], slots: Sequence[_Slot], signals: Signals) -> list[Redundant]:
    """Find redundant units among some that occur in the same places."""
    found = {i: (DEAD, dict[int, float]()) for i in range(len(units)) if _is_unread(i, slots)}
    alive = _comparable([i for i in range(len(units)) if i not in found], slots, signals)
    if alive:
        sizes, gram = _products(alive, slots, signals)
        empty = sizes <= ZERO
        found |= {alive[i]: (DEAD, {}) for i in np.flatnonzero(empty).tolist()}
        left = np.flatnonzero(~empty)
        for i, terms in combinations(gram[np.ix_(left, left)]).items():
            into = {alive[left[k]]: term for k, term in terms.items()}
            equal = [*into.values()] == [1.0]
            found[alive[left[i]]] = (DUPLICATE if equal else DEPENDENT, into)
    return [_redundant(i, kind, into, units, slots) for i, (kind, into) in sorted(found.items())]


def _is_unread(i: int, slots: Sequence[_Slot]) -> bool:
    return not any(slot.read.reads(int(slot.positions[i])) for slot in slots)


def _redundant(
    i: int, kind: str, into: Mapping[int, float], units: Sequence[int], slots: Sequence[_Slot]
) -> Redundant:
    absorbed = []
    for slot in slots:
        offset = slot.form.offset
        constant = float(offset[i] - sum(term * offset[k] for k, term in into.items()))
        by = {int(slot.positions[k]): term for k, term in into.items()}
        near = not slot.exact or abs(constant) <= SAME * abs(offset[i])
        absorbed.append(Absorbed(slot.read, int(slot.positions[i]), by, 0.0 if near else constant))
        if not near and kind == DUPLICATE:
            kind = DEPENDENT
    return Redundant(units[i], kind, tuple(absorbed))


def _comparable(candidates: list[int], slots: Sequence[_Slot], signals: Signals) -> list[int]:
    """Leave out units that hold a signal of which nothing is known and that no other one holds."""
    signal = [slot.form.signal for slot in slots]
    parts = [slot.parts for slot in slots]
    while True:
        keys = {
            i: [
                (number, int(parts[number][i]), place)
                for number in range(len(slots))
                for place in signals.terms[signal[number][i]]
                if place[0] < 0
            ]
            for i in candidates
        }
        count = Counter(key for each in keys.values() for key in each)
        left = [i for i in candidates if all(count[key] > 1 for key in keys[i])]
        if len(left) == len(candidates):
            return left
        candidates = left


def _products(
    units: Sequence[int], slots: Sequence[_Slot], signals: Signals
) -> tuple[np.ndarray, np.ndarray]:
    """Return the units' largest norms in any block of coefficients, and scalar products over all.

    Each block, what one layer's rows bring to one place, is divided by its largest norm; what is
    the same in several places counts once.
    """
    chosen = np.array(units)
    sizes, gram = np.zeros(len(units)), np.zeros((len(units), len(units)))
    seen = set()
    for slot in slots:
        form, parts = slot.form.at(chosen), slot.parts[chosen]
        terms = [signals.terms[s] for s in form.signal.tolist()]
        places = dict.fromkeys(place for each in terms for place in each)
        blocks = [(place[0], _block(place, terms, form)) for place in places]
        if not slot.exact:
            blocks.append((0, form.offset[:, None]))
        for space, block in blocks:
            norms, what = (
                norms_of(block),
                (space, sha256(block.tobytes()).digest(), parts.tobytes()),
            )
            if what in seen or not norms.any():
                continue
            seen.add(what)
            sizes = np.maximum(sizes, norms / norms.max())
            gram += (block @ block.T) * (parts[:, None] == parts) / norms.max() ** 2
    return sizes, gram


def _block(
    place: Place, terms: Sequence[Mapping[Place, tuple[float, np.ndarray]]], form: Form
) -> np.ndarray:
    """Return the units' coefficients in one space, (n, D)."""
    width = next(len(each[place][1]) for each in terms if place in each)
    block = np.zeros((len(terms), width))
    for i, each in enumerate(terms):
        if place in each:
            factor, row = each[place]
            block[i] = factor * form.scale[i] * row
    return block


def _balanced(group: Group, redundant: Sequence[Redundant]) -> list[Redundant]:
    """Keep a unit of each part, and take equally many from all; the simplest ones first."""
    part = dict(zip(group.units, group.parts or [0] * group.width, strict=True))
    by_part: dict[int, list[Redundant]] = {p: [] for p in part.values()}
    for each in sorted(redundant, key=lambda each: KINDS.index(each.kind)):
        by_part[part[each.unit]].append(each)
    size = group.width // len(by_part)
    count = min(size - 1, *(len(each) for each in by_part.values()))
    return [each for members in by_part.values() for each in members[:count]]
