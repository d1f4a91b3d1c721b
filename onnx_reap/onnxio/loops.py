"""Loop and Scan nodes of which it is known how many trips they make: a copy of the body for each.

What a trip hands to the next, what it takes from the inputs and what it adds to the results passes
through nodes of its own, the joints. States that no trip changes are read where they come from, and
nodes of the body that depend on constants alone stand once. So this is a model like any other, in
which all trips share their weights. When the file is written the first trip becomes the body again,
see `onnx_reap.onnxio.rolling`.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from onnx_reap.onnxio.bodies import constants_as_nodes, first_result
from onnx_reap.onnxio.extract import bodies_of, names_in_subgraphs
from onnx_reap.onnxio.renaming import Names, Rename, renamed


@dataclass(frozen=True)
class Trip:
    """One copy of a body, by the names of what it is handed and of what it makes."""

    entries: tuple[str, ...]
    exits: tuple[str, ...]


@dataclass(frozen=True)
class Unrolled:
    """A Loop or Scan whose trips stand in its place."""

    node: NodeProto  # As it was
    nodes: tuple[NodeProto, ...]  # Those that all trips share, and those of the first
    later: tuple[NodeProto, ...]  # Of the other trips
    trips: tuple[Trip, ...]
    body: Trip  # The names in a body that is written anew
    kept: Mapping[str, str]  # The body's name of a state that no trip changes, by what it begins as
    joints: tuple[NodeProto, ...]  # All that stands between the trips
    readers: Mapping[int, str]  # The result of the joint that reads an input of the node
    # The tensor of the first trip by that of another, and the state that it is handed by the result
    in_first_trip: Mapping[str, str]


@dataclass(frozen=True)
class Around:
    """What is to be known of the graph around a loop."""

    names: Names
    opset: int
    constants: Set[str]
    read: set[str]  # Tensors that anything reads
    draws: Callable[[str], bool]  # Whether an operator draws random numbers, in every trip anew


def unroll(node: NodeProto, trips: int, around: Around) -> tuple[Unrolled, list[NodeProto]]:
    """Return all trips of a Loop or Scan, and the nodes in order."""
    return _Unrolling(node, around).run(trips)


class _Unrolling:
    def __init__(self, node: NodeProto, around: Around) -> None:
        (self._body,) = bodies_of(node)
        self._node, self._around = node, around
        is_loop = node.op_type == "Loop"
        # Inputs and outputs of the body in front of its states: a Loop's number and condition
        self._in, self._out = (2, 1) if is_loop else (0, 0)
        slices = 0 if is_loop else integers(node, "num_scan_inputs")[0]
        self._states = len(self._body.input) - self._in - slices
        self._stem = node.name or first_result(node)
        self._own = around.names.without_clashes(self._body)
        self._kept = self._find_kept()
        self._first: Rename = lambda name: self._kept.get(name) or self._own(name)
        self._shared, self._repeated = self._split()
        self._joints: list[NodeProto] = []
        self._nodes: list[NodeProto] = []
        self._in_first_trip: dict[str, str] = {}

    def run(self, trips: int) -> tuple[Unrolled, list[NodeProto]]:
        """Write all trips."""
        shared = [renamed(node, self._first) for node in self._shared]
        self._nodes += shared
        readers, carried = self._start()
        every: list[Trip] = []
        copies: list[list[NodeProto]] = []
        for number in range(trips):
            rename = self._of_trip(number)
            every.append(self._trip(rename))
            self._enter(every[-1], carried, number, trips)
            ending = f"/trip_{number + 1}" if number else ""
            copies.append([self._copy(node, rename, ending) for node in self._repeated])
            self._nodes += copies[-1]
            carried = every[-1].exits
        self._finish(every)
        states = [value.name for value in self._body.input if value.name in self._kept]
        unrolled = Unrolled(
            self._node,
            (*shared, *copies[0]),
            tuple(node for copy in copies[1:] for node in copy),
            tuple(every),
            self._trip(self._own),
            {self._kept[name]: self._own(name) for name in states},
            tuple(self._joints),
            readers | self._readers(every[0]),
            self._in_first_trip,
        )
        return unrolled, self._nodes

    def _readers(self, first: Trip) -> dict[int, str]:
        """Return what joints hand to the first trip, by the input of the node that they read."""
        own = 1 if self._in else 0  # in whose place a trip is handed its number
        return {
            place: entry
            for place, entry in enumerate(first.entries)
            if place >= own
            and any(self._node.input[place : place + 1])
            and self._body.input[place].name not in self._kept
        }

    def _find_kept(self) -> dict[str, str]:
        """Find what states begin as that no trip changes, by their names.

        Some node of the body reads them, and nothing the result.
        """
        nodes = self._body.node
        handed_on = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Identity"}
        read = {name for node in nodes for name in (*node.input, *names_in_subgraphs(node))}
        found: dict[str, str] = {}
        for place in range(self._states):
            names = [self._body.output[self._out + place].name]
            while names[-1] in handed_on:
                names.append(handed_on[names[-1]])
            result = self._node.output[place : place + 1]
            stays = names[-1] == self._body.input[self._in + place].name
            if stays and names[-1] in read and not self._around.read.intersection(result):
                found |= dict.fromkeys(names, self._node.input[self._in + place])
        return found

    def _split(self) -> tuple[list[NodeProto], list[NodeProto]]:
        """Tell the body's nodes that depend on constants alone from the others."""
        constants = set(self._around.constants)
        fixed = constants | {name for name, source in self._kept.items() if source in constants}
        shared, repeated = [], []
        nodes = (node for node in self._body.node if self._kept.keys().isdisjoint(node.output))
        for node in (*constants_as_nodes(self._body), *nodes):
            standard = node.domain in ("", "ai.onnx") and not self._around.draws(node.op_type)
            made_of_fixed = node.input and fixed.issuperset(filter(None, node.input))
            if node.op_type == "Constant" or (standard and made_of_fixed and not bodies_of(node)):
                shared.append(node)
                fixed.update(node.output)
            else:
                repeated.append(node)
        return shared, repeated

    def _start(self) -> tuple[dict[int, str], Sequence[str]]:
        """Return joints that read what no trip is handed, and what the first trip is handed."""
        given = list(self._node.input)
        if not self._in:
            return {}, given
        readers = (
            {0: self._joint("Identity", [given[0]], self._unused("limit"))} if given[0] else {}
        )
        condition = given[1] if len(given) > 1 else ""
        condition = condition or self._constant("condition", np.array(True), self._body.input[1])
        return readers, [condition, *given[2:]]

    def _enter(self, trip: Trip, carried: Sequence[str], number: int, trips: int) -> None:
        """Write what hands a trip its inputs."""
        entries = list(trip.entries)
        if self._in:
            self._joint("Identity", [self._number(number)], entries.pop(0))
        states, slices = entries[: self._out + self._states], entries[self._out + self._states :]
        for source, entry in zip(carried, states, strict=False):
            if entry not in self._kept.values():
                self._joint("Identity", [source], entry)
        axes = integers(self._node, "scan_input_axes", len(slices))
        backward = integers(self._node, "scan_input_directions", len(slices))
        for place, entry in enumerate(slices):
            # A joint, so that nobody takes the place along this axis for a channel
            at = self._number(trips - 1 - number if backward[place] else number)
            index = self._joint("Identity", [at], self._unused("index"))
            sequence = self._node.input[self._states + place]
            self._joint("Gather", [sequence, index], entry, axis=axes[place])

    def _finish(self, trips: Sequence[Trip]) -> None:
        """Write what makes the results."""
        carried = self._out + self._states
        count = len(self._body.output) - carried
        results = [""] * self._out + list(self._node.output)
        results += [""] * (carried + count - len(results))
        for place, result in enumerate(results[:carried]):
            last = trips[-1].exits[place]
            if last in self._kept.values():
                continue
            result = result or self._unused("unread")
            self._joint("Identity", [last], result)
            self._in_first_trip[result] = trips[0].entries[self._in - self._out + place]
        axes = integers(self._node, "scan_output_axes", count)
        backward = integers(self._node, "scan_output_directions", count)
        for place, result in enumerate(results[carried:]):
            parts = [self._part(trip.exits[carried + place], axes[place]) for trip in trips]
            ordered = parts[::-1] if backward[place] else parts
            self._joint("Concat", ordered, result or self._unused("unread"), axis=axes[place])

    def _part(self, made: str, axis: int) -> str:
        part = self._unused("part")
        if self._around.opset < 13:
            return self._joint("Unsqueeze", [made], part, axes=[axis])
        return self._joint("Unsqueeze", [made, self._constant("axis", np.array([axis]))], part)

    def _of_trip(self, number: int) -> Rename:
        """Return the names of a trip's own tensors, the first's as they are in the body."""
        if not number:
            return self._first
        own = [value.name for value in self._body.input if value.name not in self._kept]
        own += [name for node in self._repeated for name in node.output if name]
        new = {}
        for name in dict.fromkeys(own):
            first = self._first(name)
            new[name] = self._around.names.unused(f"{first}/trip_{number + 1}")
            self._in_first_trip[new[name]] = first
        return lambda name: new.get(name) or self._first(name)

    def _trip(self, rename: Rename) -> Trip:
        entries, exits = (
            tuple(rename(value.name) for value in values)
            for values in (self._body.input, self._body.output)
        )
        return Trip(entries, exits)

    def _copy(self, node: NodeProto, rename: Rename, ending: str) -> NodeProto:
        copy = renamed(node, rename)
        copy.name = self._around.names.unused_by_nodes(node.name and node.name + ending)
        return copy

    def _joint(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        name = self._around.names.unused_by_nodes(f"{self._stem}/{op}")
        self._joints.append(helper.make_node(op, inputs, [output], name, **attributes))
        self._nodes.append(self._joints[-1])
        return output

    def _number(self, number: int) -> str:
        declared = self._body.input[0] if self._in else None
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
        return self._around.names.unused(f"{self._stem}/{name}")


def integers(node: NodeProto, name: str, count: int = 0) -> list[int]:
    """Return an attribute's integers; so many zeros where it is left out."""
    found = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    value = next(found, [0] * count)
    return [value] if isinstance(value, int) else list(value)
