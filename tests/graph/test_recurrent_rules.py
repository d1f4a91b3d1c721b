"""LSTM, GRU and RNN read channels that may go; their hidden size stays."""

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


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("both", [False, True])
def test_the_input_weight_follows_what_arrives(op, both):
    why = f"{op} keeps its hidden size"
    studied = assert_slice_is_mask(recognizer(op, both=both), groups={"a": 8}, frozen={"rnn": why})
    (row,) = (row for row in studied.frozen if row.node == "rnn")
    assert row.channels == HIDDEN * (1 + both)


def test_a_layer_without_bias_of_which_the_last_state_is_read():
    assert_slice_is_mask(recognizer("LSTM", bias=False, outputs=2), groups={"a": 8})
    assert_slice_is_mask(recognizer("GRU", outputs=-1), groups={"a": 8})


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

    assert_slice_is_mask(recognizer("LSTM", weights=swapped), groups={"a": 8})


def test_a_weight_that_depends_on_data_freezes():
    def computed(net, constants):
        size = net("ReduceMean", "x", keepdims=0)
        return [net("Mul", constants[0], size), *constants[1:]]

    why = "LSTM with a computed weight or bias"
    assert_slice_is_mask(recognizer("LSTM", weights=computed), groups={}, frozen={"a": why})


def test_an_initial_state_that_a_layer_makes_stays():
    net = Net({"x": ("N", 3, 4, 4)})
    pooled = net("GlobalAveragePool", net.conv("x", 3, 8, name="a"))
    pooled = net("Flatten", pooled)
    state = net("Gemm", pooled, net.weight(8, HIDDEN), net.weight(HIDDEN), name="h")
    states = [net("Unsqueeze", t, np.array([0])) for t in (state, pooled)]
    w, r = net.weight(1, HIDDEN, 8), net.weight(1, HIDDEN, HIDDEN)
    bias = net.weight(1, 2 * HIDDEN)
    y = net("RNN", states[1], w, r, bias, "", states[0], name="rnn", hidden_size=HIDDEN)
    proto = net.model(net("Squeeze", y, np.array([0, 1])))
    assert_slice_is_mask(proto, groups={"a": 8}, frozen={"h": "RNN keeps its hidden size"})


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
