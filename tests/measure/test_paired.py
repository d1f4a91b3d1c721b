"""Whether a model has come nearer, judged sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import spec
from net import Net

from onnx_reap.data import open_calibration
from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import analyse
from onnx_reap.measure.paired import Pair, compare
from onnx_reap.measure.quality import measure_quality
from onnx_reap.onnxio.light_model import LightModel

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4)).astype(np.float32)
WEIGHT = RNG.standard_normal((4, 3)).astype(np.float32)


def model(weight: np.ndarray, odd: np.ndarray | None = None):
    n = Net({"x": ("N", 4)})
    first = n.node("MatMul", "x", n.constant(weight))
    more = [] if odd is None else [n.node("Relu", n.constant(odd))]
    return n.model(first, n.node("Relu", first), *more)


def compared(
    *weights: np.ndarray, x: np.ndarray = X, odd: np.ndarray | None = None
) -> tuple[Pair, list[float]]:
    inputs = [spec(None, 4)]
    samples = open_calibration(x, inputs)
    analysis = analyse(model(WEIGHT, odd), inputs, samples)
    original, *models = (LightModel.of(model(weight, odd)) for weight in (WEIGHT, *weights))
    pair = compare(analysis, original, *models, samples)
    errors = [measure_quality(analysis, original, each, samples).output_error for each in models]
    return pair, [float(np.mean([*each.values()])) for each in errors]


def test_errors_are_those_of_the_outputs():
    pair, errors = compared(WEIGHT * 1.5, WEIGHT * 1.2)
    assert [pair.before, pair.after] == pytest.approx(errors)
    assert pair.nearer > 0.9 and pair.is_gain and not compared(WEIGHT, WEIGHT)[0].is_gain


def test_a_gain_that_hangs_on_one_sample_is_none():
    """Inputs of one sample are large in a direction where the second model is better."""
    x = X * [1, 1, 1, 0.01]
    x[0, 3] = 30
    good, bad = (WEIGHT + np.array([[a], [a], [a], [b]]) for a, b in ((0.01, 0.5), (0.05, 0.1)))
    pair, errors = compared(good, bad, x=x.astype(np.float32))
    assert errors[1] < 0.2 * errors[0]
    assert pair.nearer < 0.2 and not pair.is_gain


@pytest.mark.parametrize(
    ("noise", "nearer", "gains"), [(0.2, 0.45, False), (0.1, 0.45, True), (0.5, 0.55, True)]
)
def test_a_gain_is_clear_or_most_samples_have_it(noise: float, nearer: float, gains: bool):
    assert Pair(0.8, 0.5, noise, nearer).is_gain == gains
    assert not Pair(0.5, 0.8, noise, nearer).is_gain


def test_small_gains_on_most_samples_count():
    noise = np.random.default_rng(1).standard_normal(WEIGHT.shape)
    pair, _ = compared(WEIGHT + 0.1 * noise, WEIGHT + 0.099 * noise)
    assert pair.after > 0.97 * pair.before and pair.is_gain


def test_one_sample_tells_nothing():
    pair, _ = compared(WEIGHT * 1.5, WEIGHT * 1.2, x=X[:1])
    assert pair.after < pair.before and not pair.is_gain


@pytest.mark.parametrize("odd", [np.ones(3), np.array(2.0)])
def test_outputs_that_stay_as_they_were_do_not_judge(odd: np.ndarray):
    """Nor those that every run has one of, whatever its samples: they say nothing of samples."""
    noise = np.random.default_rng(1).standard_normal(WEIGHT.shape)
    close, closer = WEIGHT + 0.1 * noise, WEIGHT + 0.099 * noise
    plain, _ = compared(close, closer)
    pair, errors = compared(close, closer, odd=odd.astype(np.float32))
    assert [pair.before, pair.after] == pytest.approx(errors)
    assert pair.nearer == plain.nearer and pair.is_gain


def test_what_is_not_finite_is_told():
    with pytest.raises(CheckError, match="NaN or infinity"):
        compared(WEIGHT, WEIGHT * np.nan)


def test_rows_that_depend_on_values_are_compared_where_all_models_have_them():
    def picked(weight: np.ndarray):
        n = Net({"x": ("N", 4)})
        first = n.node("MatMul", "x", n.constant(weight))
        positive = n.node(
            "Greater", n.node("ReduceMax", first, axes=[1], keepdims=0), n.constant(0.5)
        )
        return n.model(first, n.node("Compress", first, positive, axis=0))

    inputs = [spec(None, 4)]
    samples = open_calibration(X, inputs)
    analysis = analyse(picked(WEIGHT), inputs, samples)
    original, far, near = (LightModel.of(picked(WEIGHT * by)) for by in (1.0, 0.2, 1.0001))
    assert compare(analysis, original, far, near, samples).is_gain
    assert not compare(analysis, original, near, far, samples).is_gain
