"""Divergence of outputs, against formulas written out once more."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from net import Net
from small_models import run

from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.autodiff.tape import Tape
from onnx_reap.measure.sensitivity import divergence
from onnx_reap.measure.sensitivity.divergence import Metric, metrics
from onnx_reap.onnxio.light_model import LightModel

RNG = np.random.default_rng(0)
CLASSES = 4
SIGNS = np.array(list(product([-1, 1], repeat=CLASSES)), np.float32)  # each is as likely


def directions(metric: Metric, y: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Run the nodes that a metric writes."""
    shape = [None] * y.ndim
    inputs = [onnx.helper.make_tensor_value_info(n, 1, shape) for n in ("y", "signs")]
    graph = onnx.helper.make_graph([], "directions", inputs, [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    found = metric.direction(Tape(LightModel(model), {"y": y.shape}, {}), "signs")
    model.graph.output.append(onnx.helper.make_tensor_value_info(found, 1, shape))
    return run(model, {"y": y.astype(np.float32), "signs": signs})[0].astype(np.float64)


def felt(metric: Metric, y: np.ndarray) -> np.ndarray:
    """Return the mean of v v^T over all signs, for one vector of scores."""
    v = directions(metric, np.broadcast_to(y, SIGNS.shape), SIGNS)
    return v.T @ v / len(v)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_class_scores_are_compared_as_distributions(kind: str, monkeypatch):
    monkeypatch.setattr(divergence, "TEMPERATURE", 1.0)
    scores = RNG.standard_normal(CLASSES)
    p = softmax(scores)
    step = 1e-3 * RNG.standard_normal(CLASSES)
    q = softmax(scores + step)
    y, d = (scores, step) if kind == "logits" else (p, q - p)
    found = d @ felt(Metric("y", kind, 1), y) @ d
    assert found == pytest.approx((p * np.log(p / q)).sum(), rel=5e-3)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_temperature_makes_distributions_flatter(kind: str):
    scores = 3 * RNG.standard_normal(CLASSES)
    p = softmax(scores / divergence.TEMPERATURE)
    expected = (np.diag(p) - np.outer(p, p)) / 2
    chances = softmax(scores)
    found = felt(Metric("y", kind, 1), scores if kind == "logits" else chances)
    if kind == "probabilities":  # of the logarithms
        found = chances[:, None] * found * chances
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_constant_added_to_all_logits_is_not_felt():
    form = felt(Metric("y", "logits", 1), RNG.standard_normal(CLASSES))
    np.testing.assert_allclose(form.sum(0), 0, atol=1e-6)


def test_classes_may_lie_along_any_axis():
    y = RNG.standard_normal((2, CLASSES, 3, 5))
    signs = np.sign(RNG.standard_normal(y.shape)).astype(np.float32)
    found = directions(Metric("y", "logits", 1), y, signs)
    flat = [x.transpose(0, 2, 3, 1).reshape(-1, CLASSES) for x in (y, signs)]
    expected = directions(Metric("y", "logits", 1), *flat).reshape(2, 3, 5, CLASSES)
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_values_are_compared_by_squared_error():
    np.testing.assert_allclose(felt(Metric("y", "values"), RNG.random(CLASSES)), np.eye(CLASSES))


@pytest.mark.parametrize("kind", ["values", "logits", "probabilities"])
def test_masked_classes_do_not_count(kind: str):
    scores = RNG.standard_normal(CLASSES)
    scores[2] = -np.inf
    y = softmax(scores) if kind == "probabilities" else scores
    form = felt(Metric("y", kind, 1), y)
    assert np.isfinite(form).all()
    if kind != "probabilities":
        np.testing.assert_array_equal(form[2], 0)
    left = [0, 1, 3]
    assert (np.diag(form)[left] > 0).all()


@pytest.mark.parametrize(
    ("given", "opset", "axis"), [({}, 17, 2), ({}, 11, 1), ({"axis": 1}, 17, 1)]
)
def test_classes_lie_where_softmax_has_them(given: dict, opset: int, axis: int):
    n = Net({"x": ("N", 5, 4)}, opset=opset)
    model = Model(n.model(n.node("Softmax", n.node("MatMul", "x", n.random(4, 3)), **given)))
    name = model.graph.outputs[0].name
    makers = {tensor.name: (2, 5, 3) for node in model.nodes for tensor in node.outputs}
    (found,) = metrics(model, makers, {name: np.dtype(np.float32)}, "auto")
    assert (found.kind, found.axis) == ("probabilities", axis)


def outputs_of_all_kinds() -> Model:
    n = Net({"x": ("N", 3, 6, 6)})
    features = n.block("x", 3, 4)
    logits = n.head(features, 4, 5)
    flat = n.node("Flatten", n.node("Softmax", logits, axis=1))
    return Model(n.model(features, logits, flat, n.node("Sigmoid", logits)))


@pytest.mark.parametrize(
    ("wish", "kinds"),
    [
        ("auto", ["values", "logits", "probabilities", "values"]),
        ("error", ["values"] * 4),
        ("kl", ["logits", "logits", "probabilities", "values"]),
    ],
)
def test_the_metric_follows_the_look_of_the_output_or_the_wish(wish: str, kinds: list[str]):
    model = outputs_of_all_kinds()
    names = [tensor.name for tensor in model.graph.outputs]
    shapes = dict(zip(names, [(2, 4, 6, 6), (2, 5), (2, 5), (2, 5)], strict=True))
    dtypes = dict.fromkeys(names, np.dtype(np.float32))
    assert [m.kind for m in metrics(model, shapes, dtypes, wish)] == kinds


def test_integer_outputs_are_not_compared():
    model = outputs_of_all_kinds()
    names = [tensor.name for tensor in model.graph.outputs]
    shapes = dict.fromkeys(names, (2, 5))
    dtypes = dict(
        zip(names, map(np.dtype, (np.int64, np.float32, np.float32, np.float32)), strict=True)
    )
    assert [m.output for m in metrics(model, shapes, dtypes, "auto")] == names[1:]


@pytest.mark.parametrize("shape", [(), (2,), (2, 1)])
def test_what_has_no_classes_is_compared_by_values_whatever_the_wish(shape: tuple[int, ...]):
    model = outputs_of_all_kinds()
    names = [tensor.name for tensor in model.graph.outputs]
    shapes, dtypes = dict.fromkeys(names, shape), dict.fromkeys(names, np.dtype(np.float32))
    assert {m.kind for m in metrics(model, shapes, dtypes, "kl")} == {"values"}
