"""Moments of layers, whether their rows were multiplied at once or kept."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from small_models import run

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.activations.moments import LayerMoments, capture_moments
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.options import Settings
from onnx_reap.prune.removal_paths import find_taps

WIDE = 40  # columns of the layer that is observed


def model():
    n = Net({"x": ("N", 8)})
    hidden = n.node("Relu", n.node("MatMul", "x", n.random(8, WIDE)))
    return n.model(n.node("MatMul", hidden, n.random(WIDE, 3)))


def data(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def captured(values: np.ndarray) -> tuple[LayerMoments, str]:
    inputs = model_inputs(model())
    samples = open_calibration(values, inputs)
    analysis = analyse(model(), inputs, samples)
    (tap,) = find_taps(analysis, analysis.groups)
    moments = capture_moments(
        analysis,
        [tap],
        samples,
        Settings(positions=1),
        total=len(values),
        to_device=lambda x: x,
    )
    return moments, tap.linear.node


def hidden(values: np.ndarray) -> np.ndarray:
    name = model().graph.node[1].output[0]
    (x,) = run(with_outputs(model(), [name]), {"x": values})
    return x.astype(np.float64)


@pytest.mark.parametrize("first", [1, WIDE - 1, WIDE, 3 * WIDE])
@pytest.mark.parametrize("second", [0, 5, 2 * WIDE])
def test_moments_are_those_of_all_rows(first: int, second: int):
    values = data(first)
    moments, node = captured(values)
    if second:
        more = data(second, 1)
        moments = moments.with_rows_of(captured(more)[0])
        values = np.concatenate([values, more])
    x = hidden(values)
    for _ in range(2):  # asking changes nothing
        found = moments[node]
        assert found.count == len(values)
        np.testing.assert_allclose(found.mean_x[0], x.mean(0), rtol=1e-5, atol=1e-6)
        scatter = (x - x.mean(0)).T @ (x - x.mean(0))
        np.testing.assert_allclose(found.scatter_xx[0], scatter, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("count", "kept"), [(WIDE - 1, True), (WIDE, False)])
def test_fewer_rows_than_columns_are_kept_as_they_are(count: int, kept: bool):
    moments, node = captured(data(count))
    assert list(moments) == [node] and len(moments) == 1
    assert (moments[node] is not moments[node]) == kept


@pytest.mark.parametrize("steps", [6, 8])
def test_moments_are_those_of_a_batch_s_own_samples(steps):
    """Where steps come in front of them, too, whether a batch divides the steps or not."""
    values = np.random.default_rng(1).standard_normal((10, steps, 8)).astype(np.float32)
    found = []
    for batch in ("N", 4):
        n = Net({"x": (batch, steps, 8)})
        h = n.node("MatMul", n.node("Transpose", "x", perm=[1, 0, 2]), n.random(8, 6))
        h = n.node("MatMul", n.node("Relu", h), n.random(6, 3))
        proto = n.model(n.node("Transpose", h, perm=[1, 0, 2]))
        inputs = model_inputs(proto)
        samples = open_calibration(values, inputs)
        analysis = analyse(proto, inputs, samples)
        (tap,) = find_taps(analysis, analysis.groups)
        settings = Settings(positions=1000)
        moments = capture_moments(
            analysis, [tap], samples, settings, total=10, to_device=lambda x: x
        )
        found.append(moments[tap.linear.node])
    assert [each.count for each in found] == [10 * steps] * 2
    np.testing.assert_allclose(found[1].gram, found[0].gram, rtol=1e-5)
