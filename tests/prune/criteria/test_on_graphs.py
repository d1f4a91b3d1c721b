"""What criteria see of a graph, and the orders that weights alone tell."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from net import Net
from small_models import images, run, weights_of

import onnx_reap.measure.activations.moments as moments_module
from onnx_reap.data import Calibration, open_calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.activations.moments import capture_moments
from onnx_reap.measure.activations.pooled import capture_pooled
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.options import Settings
from onnx_reap.prune.criteria.gather import Captured, axes_of, observe
from onnx_reap.prune.criteria.observation import Observation
from onnx_reap.prune.criteria.table import ranking as ranked
from onnx_reap.prune.removal_paths import find_taps
from onnx_reap.solve.backend import Backend


def ranking(name: str, observed: Observation) -> list[int]:
    return ranked(name, observed).order


def analysed(model) -> tuple[Analysis, Calibration]:
    inputs = model_inputs(model)
    samples = open_calibration(images(7, 6), inputs)
    return analyse(model, inputs, samples), samples


def seen_of(
    model, number: int = 0, seed: int = 0, moments: bool = False, to_device=lambda x: x
) -> tuple[Observation, Analysis]:
    analysis, samples = analysed(model)
    taps = find_taps(analysis, analysis.groups)
    captured = Captured()
    if moments:
        settings = Settings(positions=999)
        found = capture_moments(analysis, taps, samples, settings, total=7, to_device=to_device)
        pooled = capture_pooled(analysis, axes_of(taps), samples)
        captured = Captured({tap.linear.node: tap for tap in taps}, found, pooled)
    group = analysis.groups[number]
    return observe(group, analysis.flow, analysis.model, captured, seed), analysis


def summed(group: int = 1):
    n = Net({"x": ("N", 3, 6, 6)})
    a = n.conv("x", 3, 8)
    b = n.conv(n.node("Relu", a), 8, 8, group=group)
    both = n.node("Add", a, b)
    return n.model(n.head(both, 8, 3))


def test_weights_of_all_producers_make_a_unit():
    observed, analysis = seen_of(summed())
    (group,) = analysis.groups
    assert group.producers == ("conv0", "conv2")
    weights = weights_of(analysis.light.whole())
    rows = np.concatenate([weights[name].reshape(8, -1) for name in ("c0", "c2")], axis=1)
    np.testing.assert_array_equal(observed.filters, rows)
    assert observed.readers == () and observed.parts is None and observed.name == "conv0"
    assert ranking("l1", observed) == np.argsort(np.abs(rows).sum(1)).tolist()
    assert ranking("l2", observed) == np.argsort(np.square(rows).sum(1)).tolist()


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_of_dense_layers_and_transposed_convolutions(transposed):
    n = Net({"x": ("N", 3, 6, 6)})
    if transposed:
        weight = n.random(3, 8, 2, 2)
        h = n.node("ConvTranspose", "x", weight, strides=[2, 2])
        y = n.head(h, 8, 3)
        norms = np.abs(n.weights[weight]).sum(axis=(0, 2, 3))
    else:
        weight = n.random(8, 108)
        h = n.node("Gemm", n.node("Flatten", "x"), weight, transB=1, alpha=0.5)
        y = n.gemm(h, 8, 3)
        norms = 0.5 * np.abs(n.weights[weight]).sum(axis=1)
    observed, _ = seen_of(n.model(y))
    np.testing.assert_allclose(np.abs(observed.filters).sum(axis=1), norms, rtol=1e-6)  # float32
    assert ranking("l1", observed) == np.argsort(norms).tolist()


def test_a_unit_of_several_channels_has_the_weights_of_all():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("DepthToSpace", n.conv("x", 3, 16), blocksize=2)
    observed, analysis = seen_of(n.model(n.head(n.conv(h, 4, 5), 5, 3)))
    group = analysis.groups[0]
    assert group.width == 4 and observed.filters.shape == (4, 4 * 27)
    weights = weights_of(analysis.light.whole())["c0"].reshape(
        4, 4, 27
    )  # DCR: the unit varies fastest
    np.testing.assert_array_equal(observed.filters.reshape(4, 4, 27), weights.transpose(1, 0, 2))


def test_random_is_a_permutation_that_seed_and_name_decide():
    model = summed()
    observed, _ = seen_of(model, seed=3)
    order = ranking("random", observed)
    assert sorted(order) == list(range(8))
    assert ranking("random", seen_of(model, seed=3)[0]) == order
    seeds = {tuple(ranking("random", seen_of(model, seed=s)[0])) for s in range(10)}
    assert len(seeds) > 8


def several(group: int = 1):
    """Two layers read one group, of which one is followed by a normalisation."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    a = n.norm(n.conv(h, 6, 4, bias=False, group=group), 4)
    b = n.conv(h, 6, 4, 1)
    return n.model(n.head(n.node("Add", a, b), 4, 3))


@pytest.mark.parametrize("group", [1, 2])
def test_contributions_are_those_of_the_layers_run_unit_by_unit(monkeypatch, group):
    """Each layer's output, behind its normalisation, without bias, from one channel alone."""
    monkeypatch.setattr(moments_module, "MOST_ROWS", 10**9)  # every position
    observed, analysis = seen_of(several(group), moments=True)
    assert len(observed.readers) == group + 1
    assert (observed.parts is None) == (group == 1)
    names = [n.output[0] for n in analysis.light.whole().graph.node]
    (hidden,) = run(with_outputs(analysis.light.whole(), [names[1]]), {"x": images(7, 6)})
    weights = weights_of(analysis.light.whole())
    norm = next(n for n in analysis.light.whole().graph.node if n.op_type == "BatchNormalization")
    gamma, _, _, var = (weights[name] for name in norm.input[1:])
    scale = (gamma / np.sqrt(var + 1e-5))[:, None, None]
    convs = [n for n in analysis.light.whole().graph.node if n.op_type == "Conv"][1:]
    total = np.zeros((6, 6))
    for conv, factor, k in zip(convs, (scale, 1.0), (3, 1), strict=True):
        w = weights[conv.input[1]]
        small = Net({"h": ("N", 6, 6, 6)})
        y = small.node("Conv", "h", small.constant(w), group=6 // w.shape[1], pads=[k // 2] * 4)
        layer = small.model(y)
        alone = [
            run(layer, {"h": hidden * (np.arange(6) == i)[:, None, None]})[0] * factor
            for i in range(6)
        ]
        flat = np.stack([z.ravel() for z in alone]).astype(np.float64)
        total += flat @ flat.T / (7 * 36)
    np.testing.assert_allclose(observed.contributions(), total, rtol=1e-4, atol=1e-5 * total.max())


def test_statistics_are_those_of_what_arrives(monkeypatch):
    monkeypatch.setattr(moments_module, "MOST_ROWS", 10**9)
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    observed, analysis = seen_of(n.model(n.head(n.conv(h, 6, 4, 1), 4, 3)), moments=True)
    (hidden,) = run(with_outputs(analysis.light.whole(), [h]), {"x": images(7, 6)})
    mean, variance = observed.statistics()
    np.testing.assert_allclose(mean, hidden.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(variance, hidden.var((0, 2, 3)), rtol=1e-4)
    flat = hidden.transpose(1, 0, 2, 3).reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(observed.behaviours(), flat @ flat.T / flat.shape[1], rtol=1e-4)


def test_features_are_the_largest_values_by_sample_and_responses_the_outputs():
    """Units of several channels, as one layer reads them flattened."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    y = n.gemm(n.node("Flatten", h), 216, 5)
    observed, analysis = seen_of(n.model(y), moments=True)
    hidden, out = run(with_outputs(analysis.light.whole(), [h, y]), {"x": images(7, 6)})
    np.testing.assert_allclose(observed.features, hidden.max((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(observed.responses, out, rtol=1e-4, atol=1e-5)  # float32
    assert seen_of(n.model(y))[0].features.size == 0


def test_pooling_needs_an_output_with_a_row_for_every_sample():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    y = n.head(n.conv(h, 6, 4), 4, 3)
    with pytest.raises(ReapError, match="a row for every sample"):
        seen_of(n.model(n.node("ReduceMean", y, axes=[0], keepdims=0)), moments=True)


def test_moments_of_a_device_are_seen_on_the_host():
    """It refuses implicit copies."""
    device = Backend(array_api_strict, array_api_strict.Device("device1"))
    observed, _ = seen_of(several(2), moments=True, to_device=device.to_device)
    host, _ = seen_of(several(2), moments=True)
    for name in ("thinet", "nu", "wanda"):
        assert ranking(name, observed) == ranking(name, host)
