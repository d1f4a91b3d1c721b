"""What outputs feel of layers' outputs, against gradients that can be told by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from net import Net
from small_models import images

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.sensitivity import output_metric
from onnx_reap.measure.sensitivity.evaluation import Evaluation, output_weights
from onnx_reap.measure.sensitivity.output_metric import OutputMetric, output_metrics
from onnx_reap.options import Settings

DATA = images(18, 6)


def evaluation_of(proto) -> Evaluation:
    inputs = model_inputs(proto)
    data = open_calibration(DATA, inputs)
    return Evaluation.of(analyse(proto, inputs, data), data, Settings())


def linear_behind(batch="N", group=2):
    """A convolution with nothing but a mean and a weighted sum behind it."""
    n = Net({"x": (batch, 3, 6, 6)})
    h = n.conv(n.node("Relu", n.conv("x", 3, 8)), 8, 6, 1, group=group)
    proto = n.model(n.head(h, 6, 1))
    return proto, next(w for w in n.weights.values() if w.size == 6 and w.ndim == 2).ravel()


@pytest.mark.parametrize(("batch", "group"), [("N", 2), ("N", 1), (1, 2), (4, 2), (2, 2)])
def test_the_metric_is_the_second_moment_of_gradients_by_map(batch, group):
    proto, last = linear_behind(batch, group)
    evaluation = evaluation_of(proto)
    layer = next(x for x in evaluation.analysis.flow.linears if x.group == group and x.taps == 1)
    seen: list[int] = []
    (found,) = output_metrics(evaluation, [layer], seen.append).values()
    (weight,) = output_weights(evaluation).values()
    # Of one output that is a value, every direction is 1 or -1.
    samples = -(-len(DATA) // batch) * batch if batch != "N" else len(DATA)  # with what pads
    gradients = (last * weight / 36).reshape(group, -1)
    expected = gradients[:, :, None] * gradients[:, None, :] * samples * 36
    np.testing.assert_allclose(found.moments, expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert found.positions == samples * 36
    assert sum(seen) == len(DATA)


def test_layers_without_a_gradient_or_with_too_many_outputs_have_none(monkeypatch):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.conv(n.node("Relu", n.conv("x", 3, 8)), 8, 6)
    h = n.node("Round", n.conv(n.node("Relu", h), 6, 6))
    evaluation = evaluation_of(n.model(n.head(n.conv(h, 6, 4), 4, 2)))
    layers = evaluation.analysis.flow.linears
    behind = {layer.y for layer in layers[3:]}
    assert {*output_metrics(evaluation, layers)} == behind
    assert len(behind) == 2
    monkeypatch.setattr(output_metric, "WIDEST", 2)
    assert {*output_metrics(evaluation, layers)} == {layers[-1].y}
    assert output_metrics(evaluation, []) == {}
    assert output_metrics(replace(evaluation, metrics=()), layers) == {}


def test_a_root_of_many_positions_is_the_metrics_and_of_few_counts_all_outputs_alike():
    rng = np.random.default_rng(0)
    gradients, scale = rng.standard_normal((2, 5, 40)), rng.random((2, 1, 5)) + 0.5
    moments = gradients @ gradients.transpose(0, 2, 1)

    def product(positions: int) -> np.ndarray:
        root = OutputMetric(moments, positions).root(scale)
        return root @ root.transpose(0, 2, 1)

    np.testing.assert_allclose(product(10**9), moments, rtol=1e-6)
    alike = np.square(scale[:, 0, :])[:, :, None] * np.eye(5)
    none = product(0)
    np.testing.assert_allclose(none / none[0, 0, 0], alike / alike[0, 0, 0], atol=1e-12)
    traces = [np.trace(x, axis1=1, axis2=2).sum() for x in (none, moments)]
    assert traces[0] == pytest.approx(traces[1])
    np.testing.assert_allclose(product(5), (none + moments) / 2)


@pytest.mark.parametrize("factor", [0.0, 1e-30])
def test_gradients_that_vanish_tell_nothing(factor):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.conv(n.node("Relu", n.conv("x", 3, 8)), 8, 6, 1)
    small = n.node("Mul", h, n.constant(np.full((1, 6, 1, 1), factor, np.float32)))
    evaluation = evaluation_of(n.model(n.head(n.node("Add", small, n.conv("x", 3, 6, 1)), 6, 2)))
    layers = {layer.y: layer for layer in evaluation.analysis.flow.linears}
    assert h in layers
    assert output_metrics(evaluation, [layers[h]]) == {}
