"""Divergence of outputs, against formulas written out once more."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import Net

from onnx_reap.graph.model import Model
from onnx_reap.sensitivity.divergence import Metric, divergence, metrics

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 6, 4))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_class_scores_are_compared_as_distributions(kind: str):
    p, q = softmax(A), softmax(B)
    expected = sum(p[i, c] * np.log(p[i, c] / q[i, c]) for i in range(6) for c in range(4))
    given = (A, B) if kind == "logits" else (p, q)
    total, count = divergence([Metric("y", kind, 1)], *({"y": v} for v in given))[0]
    assert total == pytest.approx(expected)
    assert count == 6


def test_a_constant_added_to_all_logits_is_no_difference():
    total, _ = divergence([Metric("y", "logits", 1)], {"y": A}, {"y": A + 3})[0]
    assert total == pytest.approx(0, abs=1e-12)


def test_values_are_compared_by_squared_error_and_variance():
    total, variance = divergence([Metric("y", "values")], {"y": A}, {"y": B})[0]
    assert total == pytest.approx(sum((a - b) ** 2 for a, b in zip(A.flat, B.flat, strict=True)))
    assert variance == pytest.approx(A.var() * A.size)


def outputs_of_all_kinds() -> Model:
    n = Net({"x": ("N", 3, 6, 6)})
    features = n.block("x", 3, 4)
    logits = n.head(features, 4, 5)
    return Model(n.model(features, logits, n.node("Softmax", logits, axis=1)))


@pytest.mark.parametrize(
    ("wish", "kinds"),
    [
        ("auto", ["values", "logits", "probabilities"]),
        ("error", ["values"] * 3),
        ("kl", ["logits", "logits", "probabilities"]),
    ],
)
def test_the_metric_follows_the_look_of_the_output_or_the_wish(wish: str, kinds: list[str]):
    model = outputs_of_all_kinds()
    names = [tensor.name for tensor in model.graph.outputs]
    shapes = dict(zip(names, [(2, 4, 6, 6), (2, 5), (2, 5)], strict=True))
    dtypes = dict.fromkeys(names, np.dtype(np.float32))
    assert [m.kind for m in metrics(model, shapes, dtypes, wish)] == kinds


def test_integer_outputs_are_not_compared():
    model = outputs_of_all_kinds()
    names = [tensor.name for tensor in model.graph.outputs]
    shapes = dict.fromkeys(names, (2, 5))
    dtypes = dict(zip(names, map(np.dtype, (np.int64, np.float32, np.float32)), strict=True))
    assert [m.output for m in metrics(model, shapes, dtypes, "auto")] == names[1:]
