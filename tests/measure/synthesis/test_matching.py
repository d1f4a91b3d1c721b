"""Synthetic images come near the statistics that a model stores, counted by onnxruntime alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import onnx
import pytest
from data_helpers import collect
from net import Net
from small_models import chain, run, weights_of

import onnx_reap
from onnx_reap.data import synthetic_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.synthesis import matching
from onnx_reap.measure.synthesis.matching import with_matched_samples
from onnx_reap.measure.synthesis.statistics import instrumented, stored_statistics
from onnx_reap.progress import NoProgress

COUNT = 24


def opened(model: onnx.ModelProto, count: int = COUNT, seed: int = 0) -> Analysis:
    inputs = model_inputs(model)
    return analyse(model, inputs, synthetic_calibration(inputs, samples=count, seed=seed))


def matched(analysis: Analysis) -> Analysis:
    inputs = model_inputs(analysis.light.whole())
    return with_matched_samples(analysis, inputs, NoProgress())


def distance(model: onnx.ModelProto, images: np.ndarray) -> float:
    """Mean over BatchNormalizations, written out once more."""
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    more = onnx.ModelProto()
    more.CopyFrom(model)
    del more.graph.output[:]
    more.graph.output.extend(onnx.ValueInfoProto(name=node.input[0]) for node in norms)
    weights, distances = weights_of(model), []
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(images)
    parts = [run(more, {"x": images[at : at + size]}) for at in range(0, len(images), size)]
    for node, x in zip(norms, map(np.concatenate, zip(*parts, strict=True)), strict=True):
        axes = (0, *range(2, x.ndim))
        mean, variance = (weights[name].astype(np.float64) for name in node.input[3:5])
        away = (x.astype(np.float64).mean(axes) - mean) ** 2 / (variance + 1e-5)
        ratio = (x.var(axes, dtype=np.float64) + 1e-5) / (variance + 1e-5)
        distances.append(np.mean(away + np.log(np.sqrt(ratio)) ** 2))
    return float(np.mean(distances))


def trained(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """Store the statistics that a model has on images, from the first layer on."""
    model = deepcopy(model)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            more = deepcopy(model)
            more.graph.output[0].CopyFrom(onnx.ValueInfoProto(name=node.input[0]))
            (x,) = run(more, {"x": images})
            tensors = {tensor.name: tensor for tensor in model.graph.initializer}
            for name, values in zip(
                node.input[3:5], (x.mean((0, 2, 3)), x.var((0, 2, 3))), strict=True
            ):
                tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize("batch", ["N", 1, 8])
def test_statistics_come_nearer(batch):
    model = chain(batch=batch)
    analysis = opened(model)
    result = matched(analysis)
    before, after = (collect(each.samples) for each in (analysis, result))
    assert after.shape == before.shape
    assert after.dtype == np.float32
    assert distance(model, after) < 0.75 * distance(model, before)
    (note,) = result.samples.notes
    assert f"{distance(model, before):.2g} before, {distance(model, after):.2g} after" in note
    assert after.min() >= before.min()
    assert after.max() <= before.max()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types(dtype):
    result = matched(opened(chain(dtype=dtype)))
    images = collect(result.samples)
    assert images.dtype == dtype
    assert "matched" in result.samples.origin


def test_channels_last():
    net = Net({"x": ("N", 8, 8, 3)})
    h = net.block(net("Transpose", "x", perm=[0, 3, 1, 2]), 3, 8)
    model = net.model(net.head(h, 8, 5))
    before, after = (collect(each.samples) for each in (opened(model), matched(opened(model))))
    assert distance(model, after) < 0.75 * distance(model, before)


def test_the_same_seed_gives_the_same_samples():
    first, again, other = (collect(matched(opened(chain(), seed=s)).samples) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("batch", [1, 7, COUNT])
def test_the_gradient_is_that_of_the_distance(batch, monkeypatch):
    """However many samples a run takes."""
    monkeypatch.setattr(matching, "batch_size", lambda *_: batch)
    model = chain(4, size=5)
    analysis = opened(model)
    statistics = stored_statistics(analysis)
    written = instrumented(analysis, "x", statistics)
    passes = matching._Passes(analysis, written, statistics, "x")
    images = collect(analysis.samples)
    gradient = passes.gradient(images)
    assert passes.distance(images) == pytest.approx(
        distance(model, images), rel=1e-4
    )  # sums in float32
    # Along the gradient, in steps that few Relus notice.
    way = 1e-2 * gradient / np.abs(gradient).max()
    slope = distance(model, images + way) - distance(model, images - way)
    assert slope == pytest.approx(2 * float((gradient * way).sum()), rel=1e-2)


def without_norms() -> onnx.ModelProto:
    net = Net({"x": ("N", 3, 8, 8)})
    h = net("Relu", net.conv("x", 3, 8))
    return net.model(net.head(net("Relu", net.conv(h, 8, 8)), 8, 5))


def untrained() -> onnx.ModelProto:
    """Statistics as they are before training."""
    model = chain()
    for node in model.graph.node:
        for tensor in model.graph.initializer:
            if node.op_type == "BatchNormalization" and tensor.name in node.input[3:5]:
                values = np.full(tensor.dims, float(tensor.name == node.input[4]), np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def without_gradient() -> onnx.ModelProto:
    net = Net({"x": ("N", 3, 8, 8)})
    h = net.block(net("Round", net.block("x", 3, 8)), 8, 8)
    return net.model(net.head(h, 8, 5))


def not_of_images() -> onnx.ModelProto:
    net = Net({"x": ("N", 12)})
    h = net.norm(net.gemm("x", 12, 8), 8)
    return net.model(net.gemm(net("Relu", h), 8, 5))


def of_two_inputs() -> onnx.ModelProto:
    net = Net({"x": ("N", 3, 8, 8), "z": ("N", 8)})
    h = net("Flatten", net("GlobalAveragePool", net.block("x", 3, 8)))
    return net.model(net.gemm(net("Add", h, "z"), 8, 5))


@pytest.mark.parametrize(
    "make", [without_norms, untrained, without_gradient, not_of_images, of_two_inputs]
)
def test_samples_stay_where_nothing_can_be_matched(make: Callable[[], onnx.ModelProto]):
    analysis = opened(make())
    assert matched(analysis) is analysis


@pytest.mark.parametrize("pixels", matching.PIXELS)
@pytest.mark.parametrize("batch", ["N", 10])
def test_pixels_get_the_range_that_fits(pixels, batch):
    """Statistics are those of normalised images, whatever the model does with its input first."""
    factor, shift = matching.PIXELS[pixels]
    net = Net({"x": (batch, 3, 8, 8)})
    stored = net("Div", net("Sub", "x", net.constant(shift)), net.constant(factor))
    normalised = net("Div", net("Sub", stored, net.constant(115.0)), net.constant(66.0))
    model = net.model(net.head(net.block(net.block(normalised, 3, 8), 8, 8), 8, 5))
    real = collect(opened(model, 10, seed=1).samples)
    seen = trained(model, (np.clip(115 + 66 * real, 0, 255) * factor + shift).astype(np.float32))
    result = matched(opened(seen))
    assert f"pixels of {pixels} fit best" in result.samples.notes[0]
    images = collect(result.samples)
    low, high = shift, 255 * factor + shift
    assert (images.min(), images.max()) == pytest.approx((low, high), abs=1e-6 * high)
    inputs = model_inputs(seen)
    known = with_matched_samples(opened(seen), inputs, NoProgress(), scaled=True)
    assert "fit best" not in "".join(known.samples.notes)


def test_what_takes_long_is_done_to_the_first_samples(monkeypatch):
    analysis = opened(chain())
    least, most = matching.STEPS
    each = matching.WORK / (matching.affordable(analysis, 10**12)[0] * least)
    for images, steps in ((COUNT, most), (COUNT, 15), (20, least)):
        monkeypatch.setattr(matching, "WORK", (images * steps + 5) * each)
        assert matching.affordable(analysis, COUNT) == (images, steps)
    before, after = collect(analysis.samples), collect(matched(analysis).samples)
    assert len(after) == COUNT
    np.testing.assert_array_equal(after[20:], before[20:])
    assert (after[:20] != before[:20]).any((1, 2, 3)).all()
    monkeypatch.setattr(matching, "WORK", (matching.FEWEST * least - 5) * each)
    assert matched(analysis) is analysis


def test_a_run_without_data_takes_them():
    model, settings = chain(), {"target_macs": 0.7, "samples": 40}
    report = onnx_reap.reap(model, **settings).report
    assert "matched" in report.calibration
    assert any("BatchNormalizations store" in note for note in report.notes)
    assert "match" in report.seconds
    plain = onnx_reap.reap(model, criterion="l1", refit=False, **settings).report
    assert "match" not in plain.seconds
    given = onnx_reap.reap(model, collect(opened(model).samples), target_macs=0.7).report
    assert "match" not in given.seconds


def test_inspecting_moves_nothing(monkeypatch):
    monkeypatch.setattr(matching, "instrumented", None)
    onnx_reap.inspect(chain())
