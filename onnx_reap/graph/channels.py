"""Channel groups: units that occur in the same tensors, which get one keep count together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.labels import FROZEN
from onnx_reap.graph.parts import joint_parts, occurrences
from onnx_reap.graph.records import Flow


@dataclass(frozen=True)
class Group:
    """Channels that are chosen from together.

    Attributes
    ----------
    name : str
        Key of the node that makes the channels (with a number where it makes several groups).
    units : tuple of int
        Representatives, in channel order. A unit may stand for several channels, for instance
        the four that a pixel shuffle makes one.
    producers, consumers : tuple of str
        Keys of the nodes that make and that mix the channels.
    parts : tuple of int, optional
        For every unit the part that it belongs to; parts must keep equally many units.
    """

    name: str
    units: tuple[int, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    parts: tuple[int, ...] | None = None

    @property
    def width(self) -> int:
        """Units in the group."""
        return len(self.units)

    @property
    def step(self) -> int:
        """Fewest units that can go at once."""
        return 1 if self.parts is None else len(set(self.parts))


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
        for part, members in enumerate(balance.classes):
            parts.update(dict.fromkeys(members, part))
        signature.update(dict.fromkeys(balance.units, f"balance {number}"))
    order = _channel_order(flow)
    collected: dict[str, list[int]] = {}
    for unit in sorted(signature, key=lambda u: order.get(u, (len(order), u))):
        collected.setdefault(signature[unit], []).append(unit)
    names: Counter[str] = Counter()
    groups = [_group(units, flow, parts, names) for units in collected.values()]
    return tuple(groups)


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


def _group(
    units: Sequence[int], flow: Flow, parts: Mapping[int, int], names: Counter[str]
) -> Group:
    chosen = np.array(units)
    producers = [key for key, made in flow.makers.items() if np.isin(made, chosen).any()]
    consumers = [
        linear.node
        for linear in flow.linears
        if not linear.depthwise and np.isin(flow.units_along(linear.x, linear.x_axis), chosen).any()
    ]
    base = producers[0] if producers else "channels"
    names[base] += 1
    name = base if names[base] == 1 else f"{base}#{names[base]}"
    balanced = tuple(parts[unit] for unit in units if unit in parts)
    return Group(name, tuple(units), tuple(producers), tuple(consumers), balanced or None)
