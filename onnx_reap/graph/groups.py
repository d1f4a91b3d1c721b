"""Channel groups: units that occur in the same tensors, which get one keep count together."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.labels.balances import joint_parts, occurrences
from onnx_reap.graph.labels.labels import FROZEN, LabelArray
from onnx_reap.graph.labels.records import Flow


@dataclass(frozen=True)
class Group:
    """Channels that are chosen from together."""

    # Key of the node that makes the channels (with a number where it makes several groups)
    name: str
    # Representatives, in channel order. A unit may stand for several channels, for instance the
    # four that a pixel shuffle makes one.
    units: tuple[int, ...]
    # Keys of the nodes that make and that mix the channels
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    # For every unit the part that it belongs to; parts must keep equally many units
    parts: tuple[int, ...] | None = None
    # How many channels of a layer one unit stands for, in all layers that make or read it
    spans: frozenset[int] = frozenset({1})

    @property
    def width(self) -> int:
        """Units in the group."""
        return len(self.units)

    @property
    def step(self) -> int:
        """Fewest units that can go at once."""
        return 1 if self.parts is None else len(set(self.parts))

    @property
    def channels(self) -> int:
        """Channels in the narrowest of the layers."""
        return self.width * min(self.spans)


@dataclass(frozen=True)
class FrozenChannels:
    """Channels of one node that must stay, and why."""

    node: str
    channels: int
    reason: str
    cause: str


def find_groups(flow: Flow) -> tuple[Group, ...]:
    """Collect units into groups.

    Units that occur in the same tensors, equally often, form a group; every tensor then holds all
    of a group's units or none, so keeping one unit of each group leaves nothing empty. Units that
    must be kept in balance are a group of their own, whose parts have that property.
    """
    signature = occurrences({tensor: flow.labels[tensor] for tensor in flow.axes})
    ties = [(flow.units_along(t.tensor, t.axis), t.parts) for t in flow.equal_counts]
    balances, _ = joint_parts(ties, signature)
    parts: dict[int, int] = {}
    for number, balance in enumerate(balances):
        for part, units in enumerate(balance.classes):
            parts.update(dict.fromkeys(units, part))
        signature.update(dict.fromkeys(balance.units, f"balance {number}"))
    order = _channel_order(flow)
    collected: dict[str, list[int]] = {}
    for unit in sorted(signature, key=lambda u: order.get(u, (len(order), u))):
        collected.setdefault(signature[unit], []).append(unit)
    members = list(collected.values())
    mixers = (linear for linear in flow.linears if not linear.depthwise)
    inputs = [(mixer.node, flow.units_along(mixer.x, mixer.x_axis)) for mixer in mixers]
    spans = _spans(flow, members)
    makers, readers = _nodes_of(flow.makers.items(), members), _nodes_of(inputs, members)
    names: Counter[str] = Counter()
    groups = []
    for chosen, producers, consumers, held in zip(members, makers, readers, spans, strict=True):
        base = producers[0] if producers else "channels"
        names[base] += 1
        name = base if names[base] == 1 else f"{base}#{names[base]}"
        balanced = tuple(parts[unit] for unit in chosen if unit in parts)
        groups.append(Group(name, tuple(chosen), producers, consumers, balanced or None, held))
    return tuple(groups)


def translate(
    units: Collection[int], source: Sequence[Group], target: Sequence[Group]
) -> tuple[int, ...]:
    """Look units up in another form of the same model, by group name and place in the group.

    Parameters
    ----------
    units : collection of int
        Units of `source`, for instance those to be removed.
    source, target : sequence of Group
        Groups of the two forms. Units of groups that `target` lacks are left out.

    Returns
    -------
    tuple of int
        Units of `target`, in the order of the groups of `source`.
    """
    pairs, wanted = corresponding_units(source, target), set(units)
    return tuple(other for unit, other in pairs.items() if unit in wanted)


def corresponding_units(source: Sequence[Group], target: Sequence[Group]) -> dict[int, int]:
    """Map the units of one form of a model to those of another, see `translate`."""
    others = {group.name: group.units for group in target}
    shared = (group for group in source if group.name in others)
    return {
        unit: other
        for group in shared
        for unit, other in zip(group.units, others[group.name], strict=True)
    }


def _nodes_of(
    nodes: Iterable[tuple[str, LabelArray]], members: Sequence[Sequence[int]]
) -> list[tuple[str, ...]]:
    """Return, for each group, the nodes whose units are among its members."""
    group_of = {unit: number for number, units in enumerate(members) for unit in units}
    found: list[list[str]] = [[] for _ in members]
    for node, units in nodes:
        for number in {group_of[unit] for unit in np.unique(units).tolist() if unit in group_of}:
            found[number].append(node)
    return [tuple(names) for names in found]


def _spans(flow: Flow, members: Sequence[Sequence[int]]) -> list[frozenset[int]]:
    """Return, for each group, the channels that a unit stands for along the axes of layers."""
    group_of = {unit: number for number, units in enumerate(members) for unit in units}
    found: list[set[int]] = [set() for _ in members]
    for linear in flow.linears:
        for tensor, axis in ((linear.x, linear.x_axis), (linear.y, linear.y_axis)):
            counts = Counter(group_of.get(u) for u in flow.units_along(tensor, axis).tolist())
            for number, count in counts.items():
                if number is not None:  # a layer may read some of the parts alone
                    found[number].add(max(count // len(members[number]), 1))
    return [frozenset(each or {1}) for each in found]


def find_frozen(flow: Flow) -> tuple[FrozenChannels, ...]:
    """List the channels that must stay, by the node that makes them and the reason."""
    frozen = []
    for node, raw in flow.members.items():
        stuck = raw[flow.makers[node] == FROZEN].tolist()
        reasons = Counter(flow.reasons[label] for label in stuck if label in flow.reasons)
        frozen += [
            FrozenChannels(node, count, reason.text, reason.node)
            for reason, count in reasons.most_common()
        ]
    return tuple(frozen)


def _channel_order(flow: Flow) -> dict[int, tuple[int, int]]:
    order: dict[int, tuple[int, int]] = {}
    for place, units in enumerate(flow.makers.values()):
        for channel, unit in enumerate(units.tolist()):
            order.setdefault(unit, (place, channel))
    return order
