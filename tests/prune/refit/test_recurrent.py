"""Refit of what recurrent layers do with their input, whose result no tensor holds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from net import Net
from small_models import images, run

import onnx_reap
from onnx_reap.graph.rules.recurrent import GATES
from onnx_reap.prune.refit import recurrent

HIDDEN = 12


def recognizer(op: str, *, both: bool, bias: bool, batch: int | str = "N") -> onnx.ModelProto:
    """Two blocks, columns as steps, a recurrent layer and a dense one."""
    n = Net({"x": (batch, 3, 8, 8)})
    h = n.node("ReduceMean", n.block(n.block("x", 3, 16), 16, 24), axes=[2], keepdims=0)
    h = n.node("Transpose", h, perm=[2, 0, 1])
    directions, results = 1 + both, GATES[op] * HIDDEN
    weights = [
        n.random(directions, results, 24, scale=1.0, name="w"),
        n.random(directions, results, HIDDEN, scale=0.2, name="r"),
    ]
    weights += [n.random(directions, 2 * results, scale=0.3, name="b")] if bias else []
    direction = {"direction": "bidirectional"} if both else {}
    y = n.node(op, h, *weights, name="rnn", hidden_size=HIDDEN, **direction)
    y = n.node("Transpose", y, perm=[0, 2, 1, 3])
    y = n.node("Reshape", y, n.constant(np.array([8, -1, directions * HIDDEN])))
    return n.model(n.node("MatMul", y, n.random(directions * HIDDEN, 5, name="z")))


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize(("both", "bias"), [(False, True), (True, False), (True, True)])
def test_the_repair_carries_over(op, both, bias):
    model = recognizer(op, both=both, bias=bias)
    data, other = images(96), images(64, seed=9)
    result = onnx_reap.reap(model, data, ratio=0.5, round_to=1, joint_refit=0)
    (layer,) = (each for each in result.report.refits if each.node == "rnn")
    assert layer.error_after < 0.5 * layer.error_before
    cut = onnx_reap.cut(model, result.plan)
    want, sliced, repaired = (run(m, {"x": other})[0] for m in (model, cut, result.model))
    assert np.square(repaired - want).sum() < 0.5 * np.square(sliced - want).sum()
    assert result.report.after.params == parameters(result.model)


@pytest.mark.parametrize("tune", [0, 1])
def test_samples_that_judge_later_are_not_fitted(tune: int, monkeypatch: pytest.MonkeyPatch):
    fitted = []

    def spy(*arguments, on_all: bool):
        fitted.append(on_all)
        return fit_layer(*arguments, on_all=on_all)

    fit_layer = recurrent.fit_layer
    monkeypatch.setattr(recurrent, "fit_layer", spy)
    model = recognizer("GRU", both=False, bias=True)
    onnx_reap.reap(model, images(40), ratio=0.5, round_to=1, joint_refit=0, tune=tune)
    assert fitted and fitted[0] == (tune == 0)


def parameters(model: onnx.ModelProto) -> int:
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return sum(array.size for array in arrays if array.dtype.kind == "f")


def test_a_budget_counts_the_biases_that_a_refit_adds():
    model = recognizer("GRU", both=True, bias=False)
    result = onnx_reap.reap(model, images(48), target_params=0.8, round_to=1)
    assert result.report.after.params <= 0.8 * result.report.before.params


def test_a_fixed_batch_that_the_samples_do_not_fill():
    model = recognizer("LSTM", both=False, bias=True, batch=8)
    result = onnx_reap.reap(model, images(30), ratio=0.5, round_to=1)
    (layer,) = (each for each in result.report.refits if each.node == "rnn")
    assert layer.error_after < 0.5 * layer.error_before


def test_units_that_only_the_state_itself_reads_are_not_lossless():
    model = recognizer("LSTM", both=True, bias=True)
    for tensor in model.graph.initializer:
        if tensor.name == "z":
            unread = onnx.numpy_helper.to_array(tensor).copy()
            unread[[3, 3 + HIDDEN]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(unread, "z"))
    result = onnx_reap.reap(model, lossless=True)
    data = {"x": images(8)}
    np.testing.assert_allclose(run(result.model, data)[0], run(model, data)[0], atol=1e-5)
