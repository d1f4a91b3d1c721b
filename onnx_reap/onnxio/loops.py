"""Loop and Scan nodes of which it is known how many trips they make: a copy of the body for each.

What a trip hands to the next, what it takes from the inputs and what it adds to the results passes
through nodes of its own, the joints. Nodes of the body that depend on constants alone stand once.
So this is a model like any other, in which all trips share their weights. When the file is written
the first trip becomes the body again, see `onnx_reap.onnxio.rolling`.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, ValueInfoProto, helper, numpy_helper

from onnx_reap.onnxio.bodies import constants_as_nodes, first_result
from onnx_reap.onnxio.extract import bodies_of
from onnx_reap.onnxio.renaming import Names, Rename, renamed


@dataclass(frozen=True)
class Trip:
    """One copy of a body, by the names that its inputs and outputs have."""

    entries: tuple[str, ...]
    exits: tuple[str, ...]


@dataclass(frozen=True)
class Unrolled:
    """A Loop or Scan whose trips stand in its place."""

    node: NodeProto  # As it was
    nodes: tuple[NodeProto, ...]  # Those that all trips share, and those of the first
    later: tuple[NodeProto, ...]  # Of the other trips
    trips: tuple[Trip, ...]
    joints: tuple[NodeProto, ...]  # All that stands between the trips
    readers: tuple[str, ...]  # By input of the node, the result of the joint that reads it
    # The first trip's tensor, by that of another trip; its state, by the last state as a result
    twins: Mapping[str, str]


def unroll(
    node: NodeProto,
    trips: int,
    names: Names,
    opset: int,
    constants: Set[str],
    draws: Callable[[str], bool],
) -> tuple[Unrolled, list[NodeProto]]:
    """Return all trips of a Loop or Scan, and the nodes in order.

    Parameters
    ----------
    constants : set of str
        Constants of the graph around it.
    draws : callable
        Tells whether an operator draws random numbers, in every trip anew.
    """
    (body,) = bodies_of(node)
    shared, repeated = _split(body, constants, draws)
    return _Unrolling(node, shared, repeated, names, opset).run(trips)


def _split(
    body: GraphProto, constants: Set[str], draws: Callable[[str], bool]
) -> tuple[list[NodeProto], list[NodeProto]]:
    """Tell a body's nodes that depend on constants alone from the others."""
    fixed = set(constants)
    shared, repeated = [], []
    for node in (*constants_as_nodes(body), *body.node):
        made_of_fixed = node.input and fixed.issuperset(filter(None, node.input))
        varies = node.domain not in ("", "ai.onnx") or draws(node.op_type) or bodies_of(node)
        if node.op_type == "Constant" or (made_of_fixed and not varies):
            shared.append(node)
            fixed.update(node.output)
        else:
            repeated.append(node)
    return shared, repeated


class _Unrolling:
    def __init__(
        self,
        node: NodeProto,
        shared: Sequence[NodeProto],
        repeated: Sequence[NodeProto],
        names: Names,
        opset: int,
    ) -> None:
        (self._body,) = bodies_of(node)
        self._node, self._shared, self._repeated = node, shared, repeated
        self._names, self._opset = names, opset
        self._first = names.without_clashes(self._body)
        self._is_loop = node.op_type == "Loop"
        self._slices = 0 if self._is_loop else integers(node, "num_scan_inputs")[0]
        # Of the body's outputs, those that the next trip takes: a Loop's condition, and states
        self._carried = len(self._body.input) - (1 if self._is_loop else self._slices)
        self._stem = node.name or first_result(node)
        self._joints: list[NodeProto] = []
        self._nodes: list[NodeProto] = []

    def run(self, trips: int) -> tuple[Unrolled, list[NodeProto]]:
        """Write all trips."""
        shared = [renamed(node, self._first) for node in self._shared]
        self._nodes += shared
        carried, readers = self._start()
        every: list[Trip] = []
        copies: list[list[NodeProto]] = []
        twins: dict[str, str] = {}
        for number in range(trips):
            rename = self._of_trip(number, twins)
            trip = Trip(_names(self._body.input, rename), _names(self._body.output, rename))
            self._enter(trip, carried, self._number(number), self._number(trips - 1 - number))
            copies.append([self._copy(node, rename, number) for node in self._repeated])
            self._nodes += copies[-1]
            carried = trip.exits[: self._carried]
            every.append(trip)
        self._finish(every, twins)
        readers += every[0].entries[1 if self._is_loop else 0 :]
        later = [node for copy in copies[1:] for node in copy]
        unrolled = Unrolled(
            self._node,
            (*shared, *copies[0]),
            tuple(later),
            tuple(every),
            tuple(self._joints),
            tuple(readers[: len(self._node.input)]),
            twins,
        )
        return unrolled, self._nodes

    def _start(self) -> tuple[Sequence[str], list[str]]:
        """Return what the first trip is handed, and joints that read what it isn't."""
        given = list(self._node.input)
        if not self._is_loop:
            return given[: self._carried], []
        limit = self._unused("limit") if given[0] else ""
        if limit:
            self._joint("Identity", [given[0]], limit)
        condition = given[1] if len(given) > 1 else ""
        condition = condition or self._constant("condition", np.array(True), self._body.input[1])
        return [condition, *given[2:]], [limit]

    def _enter(self, trip: Trip, carried: Sequence[str], number: str, opposite: str) -> None:
        """Write what hands a trip its inputs."""
        entries = list(trip.entries)
        if self._is_loop:
            self._joint("Identity", [number], entries.pop(0))
        for source, entry in zip(carried, entries, strict=False):
            self._joint("Identity", [source], entry)
        axes = integers(self._node, "scan_input_axes", self._slices)
        turned = integers(self._node, "scan_input_directions", self._slices)
        for place, entry in enumerate(entries[len(carried) :]):
            # A joint, so that nobody takes the place along this axis for a channel
            index = self._unused("index")
            self._joint("Identity", [opposite if turned[place] else number], index)
            sequence = self._node.input[self._carried + place]
            self._joint("Gather", [sequence, index], entry, axis=axes[place])

    def _finish(self, trips: Sequence[Trip], twins: dict[str, str]) -> None:
        """Write what makes the results."""
        hidden = 1 if self._is_loop else 0  # the condition is no result
        results = [""] * hidden + list(self._node.output)
        results = [name or self._unused("unread") for name in results]
        for place in range(self._carried):
            self._joint("Identity", [trips[-1].exits[place]], results[place])
            twins[results[place]] = trips[0].entries[hidden + place]
        count = len(self._body.output) - self._carried
        axes = integers(self._node, "scan_output_axes", count)
        turned = integers(self._node, "scan_output_directions", count)
        for place, result in enumerate(results[self._carried :]):
            parts = [self._part(trip.exits[self._carried + place], axes[place]) for trip in trips]
            ordered = parts[::-1] if turned[place] else parts
            self._joint("Concat", ordered, result, axis=axes[place])

    def _part(self, exit_: str, axis: int) -> str:
        part = self._unused("part")
        if self._opset < 13:
            self._joint("Unsqueeze", [exit_], part, axes=[axis])
        else:
            self._joint("Unsqueeze", [exit_, self._constant("axis", np.array([axis]))], part)
        return part

    def _of_trip(self, number: int, twins: dict[str, str]) -> Rename:
        """Return the names of a trip's own tensors, the first's as they are in the body."""
        if not number:
            return self._first
        own = [value.name for value in self._body.input]
        own += [name for node in self._repeated for name in node.output if name]
        new = {}
        for name in dict.fromkeys(own):
            first = self._first(name)
            new[name] = self._names.unused(f"{first}/trip_{number + 1}")
            twins[new[name]] = first
        return lambda name: new.get(name) or self._first(name)

    def _copy(self, node: NodeProto, rename: Rename, number: int) -> NodeProto:
        copy = renamed(node, rename)
        ending = f"/trip_{number + 1}" if number and node.name else ""
        copy.name = self._names.unused_by_nodes(node.name + ending)
        return copy

    def _joint(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        name = self._names.unused_by_nodes(f"{self._stem}/{op}")
        self._joints.append(helper.make_node(op, inputs, [output], name, **attributes))
        self._nodes.append(self._joints[-1])

    def _number(self, number: int) -> str:
        declared = self._body.input[0] if self._is_loop else None
        return self._constant("number", np.array(number), declared)

    def _constant(
        self, name: str, value: np.ndarray, declared: ValueInfoProto | None = None
    ) -> str:
        """Write a constant, a scalar or with as many axes as an input of the body has."""
        rank = 0 if declared is None else len(declared.type.tensor_type.shape.dim)
        tensor = numpy_helper.from_array(value.reshape([1] * rank or value.shape))
        unused = self._unused(name)
        self._nodes.append(helper.make_node("Constant", [], [unused], value=tensor))
        return unused

    def _unused(self, name: str) -> str:
        return self._names.unused(f"{self._stem}/{name}")


def integers(node: NodeProto, name: str, count: int = 0) -> list[int]:
    """Return an attribute's integers; so many zeros where it is left out."""
    found = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    value = next(found, [0] * count)
    return [value] if isinstance(value, int) else list(value)


def _names(values: Sequence[ValueInfoProto], rename: Rename) -> tuple[str, ...]:
    return tuple(rename(value.name) for value in values)
