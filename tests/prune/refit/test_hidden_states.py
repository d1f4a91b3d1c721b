"""Refit of what recurrent layers do with their state: gates are linear in it, step by step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from net import Net
from small_models import run, weights_of

import onnx_reap
from onnx_reap.graph.rules.recurrent import GATES
from onnx_reap.measure.activations.gates import Gates

HIDDEN, INPUTS, STEPS = 16, 6, 12
KINDS = [
    ("RNN", {}),
    ("LSTM", {}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"activations": ["HardSigmoid", "Tanh"]}),
]


def tagger(
    op: str, *, direction="forward", lengths=False, last=False, bias=True, layers=1, shared=False,
    **attributes,
) -> onnx.ModelProto:  # fmt: skip
    """Recurrent layers `rnn0`, ..., and a MatMul `z` of every step, or of the last state."""
    net = Net({"x": ("N", STEPS, INPUTS)} | ({"lengths": ("N",)} if lengths else {}))
    count = 2 if direction == "bidirectional" else 1
    if count == 2 and "activations" in attributes:
        attributes["activations"] = attributes["activations"] * 2
    y, size = net("Transpose", "x", perm=[1, 0, 2]), INPUTS
    own = net.weight(count, GATES[op] * HIDDEN, HIDDEN, scale=1.2 / HIDDEN**0.5)
    for layer in range(layers):
        w = net.weight(count, GATES[op] * HIDDEN, size, scale=1.5 / size**0.5)
        r = "r" if shared and layer else net.constant(own, "r" if shared else f"r{layer}")
        b = net.weight(count, 2 * GATES[op] * HIDDEN, scale=0.2) if bias else ""
        names = ["", f"h{layer}"] if last else [f"y{layer}"]
        more = ["lengths"] if lengths else []
        node = {"hidden_size": HIDDEN, "direction": direction, **attributes}
        net(op, y, w, r, b, *more, name=f"rnn{layer}", outputs=names, **node)
        if last:
            y = net("Transpose", names[1], perm=[1, 0, 2])
            y = net("Reshape", y, np.array([0, count * HIDDEN]))
        else:
            y = net("Transpose", names[0], perm=[0, 2, 1, 3])
            y = net("Reshape", y, np.array([0, 0, count * HIDDEN]))
        size = count * HIDDEN
    if not last:
        y = net("Transpose", y, perm=[1, 0, 2])
    z = net("MatMul", y, net.weight(size, 5), name="z")
    return net.model(z, types={"lengths": onnx.TensorProto.INT32})


def sequences(count: int, seed: int = 0, *, lengths: bool = False) -> dict[str, np.ndarray]:
    """Slow random walks along three directions, with some noise."""
    rng = np.random.default_rng(seed)
    along = np.random.default_rng(9).standard_normal((3, INPUTS))
    walks = np.cumsum(rng.standard_normal((count, STEPS, 3)), axis=1) @ along
    x = 0.3 * walks + 0.1 * rng.standard_normal((count, STEPS, INPUTS))
    feed = {"x": x.astype(np.float32)}
    if lengths:
        feed["lengths"] = rng.integers(1, STEPS + 1, count).astype(np.int32)
    return feed


def pruned(model: onnx.ModelProto, data, **settings):
    return onnx_reap.reap(model, data, ratio=0.5, round_to=1, joint_refit=0, **settings)


def errors(model, others, feed) -> list[float]:
    want, *got = (run(each, feed)[0] for each in (model, *others))
    return [np.square(each - want).sum() / np.square(want - want.mean(0)).sum() for each in got]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "attributes"), KINDS)
@pytest.mark.parametrize("lengths", [False, True])
def test_states_come_nearer_to_the_original_s(op, attributes, direction, lengths):
    model = tagger(op, direction=direction, lengths=lengths, **attributes)
    data = sequences(80, lengths=lengths)
    result = pruned(model, data)
    (layer,) = (each for each in result.report.refits if each.node == "rnn0")
    # With another reset gate, what it multiplies stays as it was.
    assert layer.error_after < (0.9 if "activations" in attributes else 0.4) * layer.error_before
    cut = onnx_reap.cut(model, result.plan)
    refitted, sliced = errors(model, [result.model, cut], data)
    assert refitted < sliced  # on the samples that were fitted
    refitted, sliced = errors(model, [result.model, cut], sequences(60, 1, lengths=lengths))
    assert refitted < 0.5 * sliced
    before, after = weights_of(cut)["r0"], weights_of(result.model)["r0"]
    assert (before != after).mean() > 0.3


@pytest.mark.parametrize("op", GATES)
def test_the_states_are_known_where_the_model_gives_the_last_one_alone(op):
    model = tagger(op, last=True, bias=False)
    result = pruned(model, sequences(80))
    assert list(result.model.graph.node[1].output) == ["", "h0"]
    (layer,) = (each for each in result.report.refits if each.node == "rnn0")
    assert layer.error_after < 0.4 * layer.error_before


def test_a_layer_whose_state_stays_is_refitted_to_what_it_receives():
    model = tagger("GRU", layers=2, linear_before_reset=1)
    result = pruned(model, sequences(80), exclude=["rnn1"])
    (layer,) = (each for each in result.report.refits if each.node == "rnn1")
    assert layer.error_after < 0.25 * layer.error_before
    assert weights_of(result.model)["r1"].shape == (1, 3 * HIDDEN, HIDDEN)


def test_layers_that_share_the_weight_of_the_state_stay():
    result = pruned(tagger("LSTM", layers=2, shared=True), sequences(60))
    assert not {each.node for each in result.report.refits} & {"rnn0", "rnn1"}
    assert any("its weight is also used in another way" in note for note in result.report.notes)


def test_weights_that_bring_the_states_no_nearer_are_not_kept(monkeypatch):
    """Whatever a round says of single steps, the layer is judged running by itself."""
    model, data = tagger("LSTM"), sequences(80)

    def worse(gates, part, matrix, offset):
        return Gates(gates.weight * 0, gates.recurrent, gates.bias)

    monkeypatch.setattr(Gates, "replaced", worse)
    kept = pruned(model, data)
    (layer,) = (each for each in kept.report.refits if each.node == "rnn0")
    assert layer.error_after == layer.error_before
    sliced = weights_of(onnx_reap.cut(model, kept.plan))
    for name in ("r0", "c1", "c2"):
        np.testing.assert_array_equal(weights_of(kept.model)[name], sliced[name])


def test_no_refit_that_is_kept_raises_an_error():
    """In stacks as well, where layers receive what refitted ones give."""
    for op, attributes in KINDS:
        for direction in ("forward", "bidirectional"):
            model = tagger(op, direction=direction, layers=2, **attributes)
            result = pruned(model, sequences(24))
            assert len(result.report.refits) == 3
            assert all(each.error_after <= each.error_before for each in result.report.refits)


@pytest.mark.parametrize("target", range(1600, 2000, 40))
def test_a_budget_counts_the_biases_of_a_layer_whose_own_state_is_cut(target):
    model = tagger("LSTM", direction="bidirectional", bias=False)
    result = onnx_reap.reap(model, sequences(40), target_params=target, round_to=1, joint_refit=0)
    assert result.report.after.params <= target
