"""LSTM, GRU and RNN read channels that may go, and make units of a hidden state that may."""

import numpy as np
import onnx.helper as oh
import pytest
from net import Net
from oracle import assert_slice_is_mask, study

from onnx_reap.graph.rules.recurrent import GATES

HIDDEN = 6


def recognizer(op: str, *, both=False, bias=True, outputs=1, weights=None):
    """Conv `a`, columns as steps, a recurrent layer `rnn` and a MatMul `z`."""
    net = Net({"x": ("N", 3, 4, 6)})
    x = net.conv("x", 3, 8, name="a")
    x = net("Relu", net("ReduceMax", x, axes=[2], keepdims=0))  # (N, 8, 6)
    x = net("Transpose", x, perm=[2, 0, 1])
    directions, results = 1 + both, GATES[op] * HIDDEN
    constants = [net.weight(directions, results, 8), net.weight(directions, results, HIDDEN)]
    constants += [net.weight(directions, 2 * results)] if bias else []
    constants = weights(net, constants) if weights else constants
    direction = {"direction": "bidirectional"} if both else {}
    names = ["h0", "h1"][:outputs] if outputs > 0 else ["", "h1"]
    net(op, x, *constants, name="rnn", outputs=names, hidden_size=HIDDEN, **direction)
    y = names[-1]
    if outputs == 1:  # (steps, directions, N, hidden)
        y = net(
            "Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), np.array([6, -1, directions * 6])
        )
    width = HIDDEN * directions if outputs == 1 else HIDDEN
    return net.model(net("MatMul", y, net.weight(width, 5), name="z"))


BOTH = {"a": 8, "rnn": HIDDEN}
"""Groups: what arrives, and the hidden state."""


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("both", [False, True])
def test_what_arrives_and_units_of_the_hidden_state_go(op, both):
    assert_slice_is_mask(recognizer(op, both=both), groups=BOTH)


def test_a_layer_without_bias_of_which_the_last_state_is_read():
    assert_slice_is_mask(recognizer("LSTM", bias=False, outputs=2), groups=BOTH)
    assert_slice_is_mask(recognizer("GRU", outputs=-1), groups=BOTH)


def sequence(op: str, *, both=False, states=(), peepholes=False, reads=(0,), **attributes):
    """A recurrent layer `rnn` of a sequence, from initial states, and a MatMul of each output."""
    net = Net({"x": (5, "N", 4)})
    directions, results = 1 + both, GATES[op] * HIDDEN
    w, r = net.weight(directions, results, 4), net.weight(directions, results, HIDDEN)
    first = [make(net, directions) for make in states] + ["", ""][len(states) :]
    inputs = ["x", w, r, net.weight(directions, 2 * results), "", first[0]]
    if op == "LSTM":
        inputs += [first[1], net.weight(directions, 3 * HIDDEN) if peepholes else ""]
    if both:
        attributes["direction"] = "bidirectional"
    names = [f"y{i}" if i in reads else "" for i in range(3 if op == "LSTM" else 2)]
    net(op, *inputs, name="rnn", outputs=names, hidden_size=HIDDEN, **attributes)
    ends = [net("MatMul", names[i], net.weight(HIDDEN, 3), name=f"z{i}") for i in reads]
    return net.model(*(net("Tanh", end) for end in ends))


def _shape(net: Net, directions: int) -> str:
    """As exporters write it: for the batch of the input."""
    batch = net("Slice", net("Shape", "x"), np.array([1]), np.array([2]), np.array([0]))
    return net("Concat", np.array([directions]), batch, np.array([HIDDEN]), axis=0)


def zeros(net: Net, directions: int) -> str:
    return net("ConstantOfShape", _shape(net, directions))


def expanded(net: Net, directions: int) -> str:
    return net("Expand", np.float32(0.3), _shape(net, directions))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("state", [zeros, expanded])
@pytest.mark.parametrize("reads", [(0,), (1,), (0, 1, 2)])
def test_states_peepholes_and_all_outputs(both, state, reads):
    model = sequence("LSTM", both=both, states=(state, state), peepholes=True, reads=reads)
    assert_slice_is_mask(model, groups={"rnn": HIDDEN})


def test_constant_states():
    net = Net({"x": (5, 2, 4)})
    w, r = net.weight(1, 4 * HIDDEN, 4), net.weight(1, 4 * HIDDEN, HIDDEN)
    states = [net.weight(1, 2, HIDDEN, scale=1.0) for _ in range(2)]
    y = net("LSTM", "x", w, r, "", "", *states, name="rnn", hidden_size=HIDDEN)
    proto = net.model(net("MatMul", y, net.weight(HIDDEN, 3), name="z"))
    assert_slice_is_mask(proto, groups={"rnn": HIDDEN})


@pytest.mark.parametrize("attributes", [{"linear_before_reset": 1}, {"clip": 0.5}])
def test_attributes_stay(attributes):
    studied = assert_slice_is_mask(sequence("GRU", **attributes), groups={"rnn": HIDDEN})
    assert studied.model.node("rnn").attrs.items() >= attributes.items()


def test_a_state_that_is_an_input_or_an_output_of_the_model_stays():
    net = Net({"x": (5, "N", 4), "h": (1, "N", HIDDEN)})
    w, r = net.weight(1, 3 * HIDDEN, 4), net.weight(1, 3 * HIDDEN, HIDDEN)
    y = net("GRU", "x", w, r, "", "", "h", name="rnn", hidden_size=HIDDEN)
    z = net("MatMul", y, net.weight(HIDDEN, 3), name="z")
    why = "its initial state is an input of the model"
    assert_slice_is_mask(net.model(z), groups={}, frozen={"rnn": why})
    net = Net({"x": (5, "N", 4)})
    y, h = net("GRU", "x", w, r, name="rnn", outputs=2, hidden_size=HIDDEN)
    z = net("MatMul", y, net.weight(HIDDEN, 3), name="z")
    assert_slice_is_mask(net.model(z, h), groups={}, frozen={"rnn": "graph output"})


def test_layers_in_a_stack_go_each_by_its_own():
    net = Net({"x": (5, "N", 4)})
    x, size = "x", 4
    for name in "ab":
        w, r = net.weight(2, 4 * HIDDEN, size), net.weight(2, 4 * HIDDEN, HIDDEN)
        y = net("LSTM", x, w, r, name=name, hidden_size=HIDDEN, direction="bidirectional")
        x = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, 0, -1]))
        size = 2 * HIDDEN
    model = net.model(net("MatMul", x, net.weight(size, 3), name="z"))
    assert_slice_is_mask(model, groups={"a": HIDDEN, "b": HIDDEN})


def test_costs():
    """Input and state are multiplied at each of 6 steps."""
    studied = study(recognizer("LSTM", both=True))
    conv, dense = 4 * 6 * 27 * 8, 6 * 2 * HIDDEN * 5
    steps = 6 * 2 * 4 * HIDDEN * (8 + HIDDEN)
    assert studied.macs.at(studied.widths) == conv + dense + steps
    last = study(recognizer("LSTM", both=True, outputs=-1))
    assert last.macs.at(last.widths) == conv + steps + 2 * HIDDEN * 5


def test_weights_that_are_put_together():
    """Exporters turn the order of the gates round: constants that are computed."""

    def swapped(net, constants):
        w = constants[0]
        parts = net("Split", w, name="split", outputs=4, axis=1)
        return [net("Concat", *(parts[i] for i in (0, 2, 1, 3)), axis=1), *constants[1:]]

    assert_slice_is_mask(recognizer("LSTM", weights=swapped), groups=BOTH)


def test_a_weight_that_a_convolution_reads_otherwise_stays():
    """Its outputs are directions, its taps entries of the hidden state."""
    net = Net({"x": (5, "N", 4), "image": ("N", 3, 8)})
    shared, w = net.constant(net.weight(2, HIDDEN, HIDDEN)), net.weight(2, HIDDEN, 4)
    both = {"direction": "bidirectional", "hidden_size": HIDDEN}
    net("RNN", "x", w, shared, name="rnn", outputs=["", "h"], **both)
    y = net("Conv", net.conv("image", 3, HIDDEN, 1, rank=1, name="a"), shared, name="b")
    outputs = net.conv(y, 2, 3, 1, rank=1, name="z"), net("MatMul", "h", net.weight(HIDDEN, 3))
    frozen = {"b": "RNN uses the same weights otherwise", "rnn": "Conv uses the same weights"}
    assert_slice_is_mask(net.model(*outputs), groups={}, frozen=frozen)


def test_a_weight_that_depends_on_data_freezes():
    def computed(net, constants):
        size = net("ReduceMean", "x", keepdims=0)
        return [net("Mul", constants[0], size), *constants[1:]]

    why = "LSTM with a computed weight or bias"
    assert_slice_is_mask(recognizer("LSTM", weights=computed), groups={}, frozen={"a": why})


@pytest.mark.parametrize("op", GATES)
def test_a_constant_input_freezes_the_state_that_a_layer_makes(op):
    net = Net({"x": (2, 3, 4, 4)})
    flat = net("Flatten", net("GlobalAveragePool", net.conv("x", 3, 8, name="a")))
    state = net("Gemm", flat, net.weight(8, HIDDEN), net.weight(HIDDEN), name="h")
    state = net("Unsqueeze", state, np.array([0]))
    weights = [net.weight(1, GATES[op] * HIDDEN, columns) for columns in (5, HIDDEN)]
    inputs = (net.weight(4, 2, 5), *weights, "", "", state)
    names = net(op, *inputs, outputs=2, hidden_size=HIDDEN)
    model = net.model(net("MatMul", net("Squeeze", names[1], np.array([0])), net.weight(HIDDEN, 3)))
    frozen = {"h": f"{op} with a constant input"}
    assert_slice_is_mask(model, groups={"a": 8}, frozen=frozen)


def test_an_initial_state_that_a_layer_makes_follows():
    net = Net({"x": ("N", 3, 4, 4)})
    pooled = net("GlobalAveragePool", net.conv("x", 3, 8, name="a"))
    pooled = net("Flatten", pooled)
    state = net("Gemm", pooled, net.weight(8, HIDDEN), net.weight(HIDDEN), name="h")
    states = [net("Unsqueeze", t, np.array([0])) for t in (state, pooled)]
    w, r = net.weight(1, HIDDEN, 8), net.weight(1, HIDDEN, HIDDEN)
    bias = net.weight(1, 2 * HIDDEN)
    y = net("RNN", states[1], w, r, bias, "", states[0], name="rnn", hidden_size=HIDDEN)
    proto = net.model(net("Squeeze", y, np.array([0, 1])))
    assert_slice_is_mask(proto, groups={"a": 8}, frozen={"rnn": "graph output"})


@pytest.mark.parametrize("inputs", [1, 2])
def test_an_operator_of_another_domain_by_that_name(inputs):
    net = Net({"x": ("N", 3, 4, 6)})
    x = net("Flatten", net.conv("x", 3, 8, name="a"))
    constants = [net.weight(1, 1, 1)][: inputs - 1]
    model = net.model(net("LSTM", x, *constants, name="own", domain="own"), check=False)
    names = ["a", "b"][:inputs]
    last = oh.make_node("Add", names, ["y"]) if inputs > 1 else oh.make_node("Relu", names, ["y"])
    body = oh.make_function("own", "LSTM", names, ["y"], [last], [oh.make_opsetid("", 17)])
    model.functions.append(body)
    studied = study(model)
    assert not studied.groups
    assert not any(name.endswith(":projection") for name in studied.probe.shapes)
