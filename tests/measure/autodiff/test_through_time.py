"""Gradients through recurrent layers, against differences."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from differences import analysed, assert_close, facts_of, gradients_of, part_of
from net import Net
from small_models import run

from onnx_reap.graph.ir.recurrent import projection
from onnx_reap.measure.autodiff.backward import reached, with_gradients
from onnx_reap.onnxio.light_model import LightModel

STEPS, BATCH, READ, HIDDEN = 4, 3, 5, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TOLERANCE = 5e-3
STEP = 1 / 256  # rarely across a bend of a Relu

KINDS = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "GRU, reset behind": ("GRU", {"linear_before_reset": 1}),
    "RNN": ("RNN", {}),
    "RNN, activation": ("RNN", {"activations": ["Relu"]}),
}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def recurrent(
    net: Net,
    op: str,
    x: str,
    *,
    read: int = READ,
    bias: bool = True,
    states: tuple[str, ...] = (),
    results: tuple[bool, ...] = (True,),
    weight: np.ndarray | None = None,
    **attributes,
) -> list[str]:
    """Add a layer; return the results that it gives."""
    count, gates = DIRECTIONS[attributes.get("direction", "forward")], GATES[op] * HIDDEN
    if "activations" in attributes:
        attributes["activations"] = attributes["activations"] * count
    if weight is None:
        weight = net.weight(count, gates, read, scale=0.7)
    recurrence = net.random(count, gates, HIDDEN, scale=0.8)
    # Mostly positive, or a Relu stays zero.
    biases = net.weight(count, 2 * gates, scale=0.5) + np.float32(0.3) if bias else ""
    name = f"layer{len(net.nodes)}"
    outputs = [f"{name}_y{i}" if given else "" for i, given in enumerate(results)]
    inputs = [x, weight, recurrence, biases, "", *states]
    net.node(op, *inputs, name=name, outputs=outputs, hidden_size=HIDDEN, **attributes)
    return [each for each in outputs if each]


def together(net: Net, results: list[str]) -> str:
    """Join results of a layer into one tensor of equally weighted entries."""
    flat = [net.node("Reshape", y, np.array([-1])) for y in results]
    return net.node("Concat", *flat, axis=0) if len(flat) > 1 else results[0]


def drawn(net: Net) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in net.inputs.items()}


def check(net: Net, y: str, wanted: list[str], opset: int = 17, fed=None) -> None:
    net.opset = opset
    fed = drawn(net) if fed is None else fed
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    assert reached(LightModel(part), facts, wanted) == set(wanted)
    gradients, slopes, _ = gradients_of(part, facts, fed, wanted, STEP)
    for name in wanted:
        assert_close(gradients[name], slopes[name], TOLERANCE)


def states_of(op: str, direction: str, batch: int = BATCH) -> dict[str, tuple[int, ...]]:
    shape = (DIRECTIONS[direction], batch, HIDDEN)
    return {"h": shape, "c": shape} if op == "LSTM" else {"h": shape}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_towards_all_that_it_reads(kind, direction, bias):
    op, attributes = KINDS[kind]
    states = states_of(op, direction)
    net = Net({"x": (STEPS, BATCH, READ), **states})
    (y,) = recurrent(
        net, op, "x", bias=bias, states=tuple(states), direction=direction, **attributes
    )
    check(net, y, ["x", *states])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_from_every_result(kind, direction):
    op, attributes = KINDS[kind]
    count = 3 if op == "LSTM" else 2
    for results in product([False, True], repeat=count):
        if any(results):
            states = states_of(op, direction)
            net = Net({"x": (STEPS, BATCH, READ), **states})
            made = recurrent(
                net,
                op,
                "x",
                states=tuple(states),
                results=results,
                direction=direction,
                **attributes,
            )
            check(net, together(net, made), ["x", *states])


@pytest.mark.parametrize("opset", [11, 13, 14, 21, 22])
@pytest.mark.parametrize("kind", KINDS)
def test_operator_sets(kind, opset):
    op, attributes = KINDS[kind]
    net = Net({"x": (STEPS, BATCH, READ)})
    (y,) = recurrent(net, op, "x", direction="bidirectional", **attributes)
    check(net, y, ["x"], opset)


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 4), (2, 1), (7, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind, steps, batch):
    op, attributes = KINDS[kind]
    states = states_of(op, "bidirectional", batch)
    net = Net({"x": (steps, batch, READ), **states})
    (y,) = recurrent(net, op, "x", states=tuple(states), direction="bidirectional", **attributes)
    check(net, y, ["x", *states])


@pytest.mark.parametrize("kind", KINDS)
def test_layers_on_top_of_each_other(kind):
    op, attributes = KINDS[kind]
    net = Net({"x": (STEPS, BATCH, READ)})
    y, read = "x", READ
    for direction, count in (("bidirectional", 2), ("reverse", 1)):
        (y,) = recurrent(net, op, y, read=read, direction=direction, **attributes)
        y = net.node("Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, 0, -1]))
        read = count * HIDDEN
    check(net, net.node("MatMul", y, net.weight(read, 4)), ["x"])


@pytest.mark.parametrize(
    ("op", "names"),
    [
        ("RNN", ["Relu", "Tanh"]),
        ("GRU", ["Sigmoid", "Tanh"] * 2),
        ("LSTM", ["sigmoid", "tanh", "tanh"] * 2),
    ],
)
def test_activations_that_are_named(op, names):
    net = Net({"x": (STEPS, BATCH, READ)})
    (y,) = recurrent(net, op, "x", direction="bidirectional")
    net.nodes[-1].attribute.append(onnx.helper.make_attribute("activations", names))
    check(net, y, ["x"])


@pytest.mark.parametrize("op", GATES)
def test_states_from_another_layer(op):
    """As a decoder has them; they also lead on by themselves."""
    net = Net({"x": (STEPS, BATCH, READ), "u": (2, BATCH, READ)})
    count = 3 if op == "LSTM" else 2
    given = (False, *[True] * (count - 1))
    states = recurrent(net, op, "x", results=given)
    made = recurrent(net, op, "u", states=tuple(states), results=(True, *given[1:]))
    check(net, together(net, [*made, states[0]]), ["x", "u"])


def test_two_layers_that_share_weights():
    net = Net({"x": (STEPS, BATCH, HIDDEN)})
    (y,) = recurrent(net, "GRU", "x", read=HIDDEN)
    first = net.nodes[-1]
    y = net.node("Squeeze", y, np.array([1]))
    second = onnx.NodeProto()
    second.CopyFrom(first)
    second.name, second.input[0], second.output[0] = "second", y, "z"
    net.nodes.append(second)
    check(net, "z", ["x"])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("results", [(True,), (False, True)])
def test_towards_the_projection(kind, direction, results):
    """An input that is multiplied by ones is its own projection."""
    op, attributes = KINDS[kind]
    count, gates = DIRECTIONS[direction], GATES[op] * HIDDEN
    ones = np.eye(count * gates, dtype=np.float32).reshape(count, gates, -1)
    net = Net({"x": (STEPS, BATCH, count * gates)})
    (y,) = recurrent(net, op, "x", weight=ones, results=results, direction=direction, **attributes)
    fed = drawn(net)
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    wanted = projection("layer0")
    assert reached(LightModel(part), facts, [wanted]) == {wanted}
    trainer = with_gradients(LightModel(part), facts, {y: 1.0}, ["x", wanted])
    target = np.ones(run(part, fed)[0].shape, np.float32)
    towards_x, towards_it = run(trainer.model.whole(), {**fed, trainer.targets[y]: target})
    assert_close(towards_it, towards_x, 1e-6)


# What no gradient passes, as attributes and what is read behind the biases.
REFUSED = {
    "peepholes": ("LSTM", {}, {7: np.full((1, 3 * HIDDEN), 0.5, np.float32)}),
    "sequences of some lengths": ("GRU", {}, {4: np.full(BATCH, 3, np.int32)}),
    "clip": ("LSTM", {"clip": 0.5}, {}),
    "clip of a GRU": ("GRU", {"clip": 0.5}, {}),
    "coupled gates": ("LSTM", {"input_forget": 1}, {}),
    "other activations": ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, {}),
    "other activations of an RNN": ("RNN", {"activations": ["Softsign"]}, {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_covered_lets_nothing_through(case):
    op, attributes, more = REFUSED[case]
    net = Net({"x": (STEPS, BATCH, READ)})
    (y,) = recurrent(net, op, "x", **attributes)
    node = net.nodes[-1]
    for place, values in more.items():
        node.input.extend([""] * (place + 1 - len(node.input)))
        node.input[place] = net.constant(values)
    fed = drawn(net)
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    assert not reached(LightModel(part), facts, ["x", projection("layer0")])


def test_batches_in_front_are_refused():
    """onnxruntime can't run them either, so nothing is known of shapes."""
    net = Net({"x": (BATCH, STEPS, READ)})
    (y,) = recurrent(net, "LSTM", "x")
    fed = {"x": np.zeros((BATCH, STEPS, READ), np.float32)}
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    assert reached(LightModel(part), facts, ["x"])
    part.graph.node[0].attribute.append(onnx.helper.make_attribute("layout", 1))
    assert not reached(LightModel(part), facts, ["x"])


def test_computed_weights_get_no_gradient():
    net = Net({"x": (STEPS, BATCH, READ), "w": (1, 4 * HIDDEN, READ)})
    weight = net.node("Tanh", "w")
    recurrence = net.random(1, 4 * HIDDEN, HIDDEN)
    y = net.node("LSTM", "x", weight, recurrence, hidden_size=HIDDEN)
    fed = drawn(net)
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    assert reached(LightModel(part), facts, ["x", "w"]) == {"x"}


def test_the_steps_are_gone_through_once():
    """What leads on to an input, to initial states and to the projection, is written once."""
    net = Net({"x": (STEPS, BATCH, READ), "h": (1, BATCH, HIDDEN)})
    (y,) = recurrent(net, "GRU", "x", states=("h",))
    fed = drawn(net)
    analysis = analysed(net.model(y), fed)
    part, facts = part_of(analysis.model, fed, [y]), facts_of(analysis)
    trainer = with_gradients(LightModel(part), facts, {y: 1.0}, ["x", "h", projection("layer0")])
    assert [n.op_type for n in trainer.model.graph.node].count("Scan") == 1
