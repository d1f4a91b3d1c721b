"""Divergence of outputs, against formulas written out once more."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import Net

from onnx_reap.graph.model import Model
from onnx_reap.sensitivity.divergence import Metric, metrics

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 6, 4))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_class_scores_are_compared_as_distributions(kind: str):
    p, q = softmax(A), softmax(B)
    expected = sum(p[i, c] * np.log(p[i, c] / q[i, c]) for i in range(6) for c in range(4))
    a, b = ({"y": v} for v in ((A, B) if kind == "logits" else (p, q)))
    metric = Metric("y", kind, 1)
    assert metric.distance(a, b) == pytest.approx(expected)
    assert metric.scale([a, a]) == 12


def test_a_constant_added_to_all_logits_is_no_difference():
    assert Metric("y", "logits", 1).distance({"y": A}, {"y": A + 3}) == pytest.approx(0, abs=1e-12)


def test_values_are_compared_by_squared_error_and_variance():
    metric = Metric("y", "values")
    expected = sum((a - b) ** 2 for a, b in zip(A.flat, B.flat, strict=True))
    assert metric.distance({"y": A}, {"y": B}) == pytest.approx(expected)
    halves = [{"y": A[:2]}, {"y": A[2:]}]  # however the samples are divided
    assert metric.scale(halves) == pytest.approx(A.var() * A.size)


def test_masked_classes_do_not_count():
    mask = np.array([0, 0, -np.inf, 0])
    left = [0, 1, 3]
    found = Metric("y", "logits", 1).distance({"y": A + mask}, {"y": B + mask})
    expected = Metric("y", "logits", 1).distance({"y": A[:, left]}, {"y": B[:, left]})
    assert found == pytest.approx(expected)


def test_rounding_makes_no_divergence_negative():
    p = softmax(RNG.standard_normal((2000, 50)).astype(np.float32) * 1e-4).astype(np.float32)
    q = p[:, ::-1] * np.float32(1 - 1e-6)
    assert Metric("y", "probabilities", 1).distance({"y": p}, {"y": q}) >= 0


def test_outputs_of_another_shape_are_not_comparable():
    assert Metric("y", "values").distance({"y": A}, {"y": A[:3]}) == 0


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
