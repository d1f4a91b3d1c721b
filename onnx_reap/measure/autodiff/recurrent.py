"""Gradients of recurrent layers, backward through time.

The states of all steps are known, so gates are computed for all steps at once; only the cells of an
LSTM take a pass forward. On the pass backward, every step turns gradients at its state into those
at its gates.

The projection of the input, see `onnx_reap.graph.ir.recurrent`, counts as one more input: gates are
functions of its sum with what comes from the state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnx_reap.measure.autodiff.gradient import Gradient, Step
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes

X, W, R, BIAS, LENGTHS, STATE, CELL, PEEPHOLES, PROJECTION = range(9)
"""Inputs."""

STATES, LAST_STATE, LAST_CELL = range(3)
"""Results."""

ACTIVATIONS = {
    "LSTM": (["sigmoid", "tanh", "tanh"],),
    "GRU": (["sigmoid", "tanh"],),
    "RNN": (["tanh"], ["relu"]),
}
"""Those of one direction that are covered; the first are taken where none are given."""


@dataclass(frozen=True)
class _Before:
    """Gradients of one direction, in front of its steps."""

    projection: Value  # (steps, batch, gates)
    state: Value  # (batch, hidden)
    cell: Value | None = None  # The same, of an LSTM


@dataclass(frozen=True)
class _Direction:
    """One direction of a node, with the gradient at one of its results."""

    at: Step
    index: int

    @property
    def backwards(self) -> bool:
        """Whether it starts at the last step."""
        return self.index == 1 or self.at.get("direction", "forward") == "reverse"

    def own(self, stacked: Value, axis: int = 0) -> Value:
        """Take what is this direction's."""
        return stacked.op("Gather", self.at.tape.ints(self.index), axis=axis)

    @cached_property
    def states(self) -> Value:
        """The states behind all steps, (steps, batch, hidden)."""
        node, tape = self.at.node, self.at.tape

        def again() -> Value:
            return tape.op(node.op_type, *node.input, **attributes(node))

        if node.output[STATES]:
            return self.own(self.at.y, 1)
        return self.own(tape.once((*node.output, "states"), again), 1)

    @cached_property
    def states_before(self) -> Value:
        """The states in front of all steps."""
        first = self.initial(STATE).op("Reshape", self.states.op("Slice", [0], [1]).sizes())
        if self.backwards:
            return self.at.tape.op("Concat", self.states.op("Slice", [1], [2**31]), first, axis=0)
        return self.at.tape.op("Concat", first, self.states.op("Slice", [0], [-1]), axis=0)

    @property
    def nothing(self) -> Value:
        """Zeros like a state."""
        return self.states.op("Gather", self.at.tape.ints(0)).zeros()

    def initial(self, place: int) -> Value:
        """Return the state or cell in front of the first step, (batch, hidden)."""
        return self.own(self.at.input(place)) if _has(self.at.node, place) else self.nothing

    def arriving(self, result: int) -> Value:
        """Return the gradient at one of the results."""
        if self.at.index == result:
            return self.own(self.at.dy, 1 if result == STATES else 0)
        return self.states.zeros() if result == STATES else self.nothing

    def rows(self, place: int) -> Value:
        """Return a weight, (gates, inputs)."""
        return self.own(self.at.input(place))

    def products(self, place: int) -> Value:
        """Multiply what is read, or the states, with its weight and add its bias, for all gates."""
        x = self.at.x if place == W else self.states_before
        found = x.op("MatMul", self.rows(place).transpose([1, 0]))
        return found + self.bias(place) if _has(self.at.node, BIAS) else found

    def bias(self, place: int) -> Value:
        """Return the bias of what is read, or that of the states."""
        both = self.own(self.at.input(BIAS)).reshape([2, -1])
        return both.op("Gather", self.at.tape.ints(place - W))

    def apart(self, gates: Value, count: int, rank: int = 3) -> list[Value]:
        """Divide what all gates have along the last axis."""
        stacked = gates.reshape([*[0] * (rank - 1), count, -1])
        places = map(self.at.tape.ints, range(count))
        return [stacked.op("Gather", place, axis=rank - 1) for place in places]

    def together(self, *gates: Value) -> Value:
        """Join gates along the last axis."""
        return gates[0].tape.op("Concat", *gates, axis=-1)


def _lstm(on: _Direction) -> _Before:
    sums = on.apart(on.products(W) + on.products(R), 4)
    i, o, f = (each.op("Sigmoid") for each in sums[:3])
    new = sums[3].op("Tanh")
    cells, cells_before = _cells(on, f, i * new)
    c, recurrent = cells.op("Tanh"), on.rows(R)
    to_cell = o * (1 - c * c)
    slopes = on.together(
        new * _of_sigmoid(i), c * _of_sigmoid(o), cells_before * _of_sigmoid(f), i * (1 - new * new)
    )

    def step(given: list[Value]) -> list[Value]:
        dh, dc, dy, to_cell, f, slopes = given
        dh = dh + dy
        dc = dc + dh * to_cell
        gates = on.together(dc, dh, dc, dc) * slopes
        return [gates.op("MatMul", recurrent), dc * f, gates]

    last = [on.arriving(LAST_STATE), on.arriving(LAST_CELL)]
    state, cell, gates = _back(on, step, last, [to_cell, f, slopes])
    return _Before(gates, state, cell)


def _cells(on: _Direction, kept: Value, added: Value) -> tuple[Value, Value]:
    """Write the cells behind all steps, and those in front of them."""

    def step(given: list[Value]) -> list[Value]:
        cell, kept, added = given
        following = kept * cell + added
        return [following, following, cell]

    _, cells, before = on.at.tape.scan(
        step, [on.initial(CELL)], [kept, added], backwards=on.backwards
    )
    return cells, before


def _gru(on: _Direction) -> _Before:
    read, past = on.apart(on.products(W), 3), on.apart(on.products(R), 3)
    z, r = ((read[gate] + past[gate]).op("Sigmoid") for gate in range(2))
    if on.at.get("linear_before_reset", 0):
        return _reset_behind(on, read[2], past[2], z, r)
    return _reset_in_front(on, read[2], z, r)


def _reset_behind(on: _Direction, read: Value, past: Value, z: Value, r: Value) -> _Before:
    """Go through a GRU that resets what comes from the state."""
    new, recurrent = (read + r * past).op("Tanh"), on.rows(R)
    slope = (1 - z) * (1 - new * new)
    first = (on.states_before - new) * _of_sigmoid(z)
    second = slope * past * _of_sigmoid(r)
    slopes = on.together(first, second, slope)
    to_state = on.together(first, second, slope * r)

    def step(given: list[Value]) -> list[Value]:
        dh, dy, z, slopes, to_state = given
        dh = dh + dy
        each = on.together(dh, dh, dh)
        back = (each * to_state).op("MatMul", recurrent)
        return [dh * z + back, each * slopes]

    state, gates = _back(on, step, [on.arriving(LAST_STATE)], [z, slopes, to_state])
    return _Before(gates, state)


def _reset_in_front(on: _Direction, read: Value, z: Value, r: Value) -> _Before:
    """Go through a GRU that resets the state."""
    weights = on.apart(on.rows(R).transpose([1, 0]), 3, rank=2)
    past = (r * on.states_before).op("MatMul", weights[2])
    if _has(on.at.node, BIAS):
        past = past + on.apart(on.bias(R), 3, rank=1)[2]
    new = (read + past).op("Tanh")
    of_z = (on.states_before - new) * _of_sigmoid(z)
    update, reset, candidate = (weight.transpose([1, 0]) for weight in weights)
    of_r, of_new = on.states_before * _of_sigmoid(r), (1 - z) * (1 - new * new)

    def step(given: list[Value]) -> list[Value]:
        dh, dy, z, r, of_z, of_r, of_new = given
        dh = dh + dy
        dz, dnew = dh * of_z, dh * of_new
        masked = dnew.op("MatMul", candidate)
        dr = masked * of_r
        back = dz.op("MatMul", update) + dr.op("MatMul", reset)
        return [dh * z + masked * r + back, on.together(dz, dr, dnew)]

    state, gates = _back(on, step, [on.arriving(LAST_STATE)], [z, r, of_z, of_r, of_new])
    return _Before(gates, state)


def _rnn(on: _Direction) -> _Before:
    y, recurrent = on.states, on.rows(R)
    bent = _activations(on.at.node)[on.index] == ["tanh"]
    slopes = 1 - y * y if bent else (y > 0).floats()

    def step(given: list[Value]) -> list[Value]:
        dh, dy, slopes = given
        gates = (dh + dy) * slopes
        return [gates.op("MatMul", recurrent), gates]

    state, gates = _back(on, step, [on.arriving(LAST_STATE)], [slopes])
    return _Before(gates, state)


def _back(
    on: _Direction,
    step: Callable[[list[Value]], list[Value]],
    last: list[Value],
    sequences: list[Value],
) -> list[Value]:
    """Go from the last step to the first."""
    given = [on.arriving(STATES), *sequences]
    return on.at.tape.scan(step, last, given, backwards=not on.backwards)


def _of_sigmoid(y: Value) -> Value:
    return y * (1 - y)


def recurrent(at: Step) -> Value:
    """Gradient of a recurrent layer towards its input, its initial states or its projection."""
    directions = [_Direction(at, index) for index in range(_count(at.node))]
    through = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}[at.node.op_type]
    found = at.tape.once(
        (*at.node.output, at.index), lambda: [through(direction) for direction in directions]
    )
    if at.place == X:
        pairs = zip(found, directions, strict=True)
        return at.tape.sum([each.projection.op("MatMul", on.rows(W)) for each, on in pairs])
    if at.place == PROJECTION:
        return at.tape.op("Concat", *(each.projection for each in found), axis=2)
    ends = [each.state if at.place == STATE else each.cell for each in found]
    stacked = at.tape.op("Concat", *(end for end in ends if end is not None), axis=0)
    return stacked.like(at.input(at.place))


def _count(node: onnx.NodeProto) -> int:
    return 2 if attributes(node).get("direction") == "bidirectional" else 1


def _activations(node: onnx.NodeProto) -> list[list[str]]:
    """Return the activations of each direction, in lower case."""
    usual, *_ = ACTIVATIONS[node.op_type]
    given = [each.decode().lower() for each in attributes(node).get("activations", [])]
    given = given or usual * _count(node)
    return [given[start : start + len(usual)] for start in range(0, len(given), len(usual))]


def _has(node: onnx.NodeProto, place: int) -> bool:
    return len(node.input) > place and bool(node.input[place])


def is_plain(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether `recurrent` covers a node: sequences of one length, no peepholes, usual gates."""
    given = attributes(node)
    others = ("layout", "clip", "input_forget", "activation_alpha", "activation_beta")
    if any(_has(node, place) for place in (LENGTHS, PEEPHOLES)) or any(map(given.get, others)):
        return False
    return all(each in ACTIVATIONS[node.op_type] for each in _activations(node))


PLACES = frozenset({X, STATE, PROJECTION})

RECURRENT: Mapping[str, Gradient] = {
    "GRU": Gradient(recurrent, PLACES, fits=is_plain),
    "LSTM": Gradient(recurrent, PLACES | {CELL}, fits=is_plain),
    "RNN": Gradient(recurrent, PLACES, fits=is_plain),
}
