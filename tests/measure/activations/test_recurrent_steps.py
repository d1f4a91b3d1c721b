"""Steps of recurrent layers as rows: linear maps and activations give the layer's states."""

import numpy as np
import pytest
from net import Net
from small_models import run

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.recurrent import recurrence
from onnx_reap.graph.rules.recurrent import GATES
from onnx_reap.measure.activations.gates import Gates
from onnx_reap.measure.activations.steps import sampled_steps

HIDDEN, INPUTS, STEPS = 5, 3, 6
LENGTHS = np.array([6, 1, 4, 3], np.int32)


def net_of(op: str, direction: str, *, lengths: bool, state: bool, bias: bool, **attributes) -> Net:
    count = 2 if direction == "bidirectional" else 1
    net = Net({"x": (STEPS, len(LENGTHS), INPUTS)})
    results = GATES[op] * HIDDEN
    weights = [net.weight(count, results, size, scale=0.7) for size in (INPUTS, HIDDEN)]
    more = [
        net.weight(count, 2 * results, scale=0.5) if bias else "",
        LENGTHS if lengths else "",
        net.weight(count, len(LENGTHS), HIDDEN, scale=0.5) if state else "",
    ]
    net(op, "x", *weights, *more, name="rnn", hidden_size=HIDDEN, direction=direction, **attributes)
    return net


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def states(op: str, parts: list[np.ndarray], before: np.ndarray) -> np.ndarray:
    """Return the states behind consecutive steps of a sample, the first of which starts afresh."""
    if op == "RNN":
        return np.tanh(parts[0])
    if op == "GRU":
        update, reset = np.split(sigmoid(parts[0]), 2, axis=-1)
        candidate = np.tanh(parts[1] if len(parts) == 2 else parts[1] + reset * parts[2])
        return (1 - update) * candidate + update * before
    i, o, f, c = np.split(parts[0], 4, axis=-1)
    cell, found = 0.0, []
    for at in range(len(i)):
        cell = sigmoid(f[at]) * cell + sigmoid(i[at]) * np.tanh(c[at])
        found.append(sigmoid(o[at]) * np.tanh(cell))
    return np.stack(found)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [("RNN", {}), ("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1})],
)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(("state", "bias"), [(False, True), (True, False)])
def test_maps_and_activations_give_the_states(op, attributes, direction, lengths, state, bias):
    net = net_of(op, direction, lengths=lengths, state=state, bias=bias, **attributes)
    proto = net.model("rnn_y")
    x = np.random.default_rng(1).standard_normal((STEPS, len(LENGTHS), INPUTS)).astype("f4")
    (y,) = run(proto, {"x": x})
    model = Model(proto)
    layer, gates = recurrence(model.node("rnn"), "rnn"), Gates.of(model, "rnn")
    steps, places = sampled_steps(layer, {"x": x, "rnn_y": y}, 100, np.random.default_rng(0))
    own = LENGTHS if lengths else np.full(len(LENGTHS), STEPS)
    assert steps.x.shape == (1, own.sum(), INPUTS)
    np.testing.assert_array_equal(steps.x[0], x.reshape(-1, INPUTS)[places])
    parts = [gates.outputs(part, steps.x, steps.before) for part in layer.maps]
    for d, backwards in enumerate(layer.backwards):
        for sample in np.split(np.arange(own.sum()), np.cumsum(own)[:-1]):
            order = sample[::-1] if backwards else sample
            found = states(op, [part[d, order] for part in parts], steps.before[d, order])
            np.testing.assert_allclose(found, steps.after[d, order], atol=1e-5)


def test_few_of_many_steps_are_taken_alike():
    layer = recurrence(Model(SMALL).node("rnn"), "rnn")
    rng = np.random.default_rng(1)
    tensors = {"x": rng.random((STEPS, 4, INPUTS)), "rnn_y": rng.random((STEPS, 1, 4, HIDDEN))}
    some, all_ = (
        sampled_steps(layer, tensors, limit, np.random.default_rng(0))[0] for limit in (2, 99)
    )
    at = [np.flatnonzero((all_.x[0] == row).all(axis=1)).item() for row in some.x[0]]
    assert len(at) == 8
    np.testing.assert_array_equal(some.after, all_.after[:, at])
    np.testing.assert_array_equal(some.before, all_.before[:, at])


SMALL = net_of("RNN", "forward", lengths=False, state=False, bias=True).model("rnn_y")
