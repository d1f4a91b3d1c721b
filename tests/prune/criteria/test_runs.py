"""Whole runs with every criterion."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from net import Net
from small_models import chain, images, run, weights_of

import onnx_reap
from onnx_reap.errors import ReapError, UsageError
from onnx_reap.fields import CRITERIA
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.prune.criteria import table

DATA = images(24)


def mixed() -> onnx.ModelProto:
    """Shortcut, depthwise and grouped convolutions, Concat."""
    n = Net({"x": ("N", 3, 8, 8)})
    stem = n.block("x", 3, 16)
    h = n.block(n.block(stem, 16, 16, 1), 16, 16, group=16)
    h = n.node("Add", stem, n.norm(n.conv(h, 16, 16, 1, bias=False), 16))
    both = n.node("Concat", n.block(h, 16, 8, group=2), n.conv(h, 16, 8, 1), axis=1)
    return n.model(n.head(n.block(both, 16, 12), 12, 5))


def reap(name: str, **settings) -> onnx_reap.Result:
    if CRITERIA[name].package:
        pytest.importorskip(CRITERIA[name].package)
    return onnx_reap.reap(mixed(), criterion=name, **settings)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_makes_a_smaller_model_the_same_one_twice(name):
    settings = {"data": DATA, "target_macs": 0.6}
    result = reap(name, **settings)
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    (y,) = run(result.model, {"x": DATA})
    assert y.shape == (24, 5) and np.isfinite(y).all()
    assert reap(name, **settings).model == result.model


@pytest.mark.parametrize("name", [name for name, each in CRITERIA.items() if not each.merges])
def test_without_a_refit_the_model_is_sliced_and_nothing_else(name):
    result = reap(name, data=DATA, ratio=0.5, refit=False)
    assert not result.report.refits
    model = onnx_reap.mask(mixed(), result.plan)
    (expected,), (found,) = (run(m, {"x": DATA}) for m in (model, result.model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32


def doubled(factor: float, group: int) -> onnx.ModelProto:
    """Every second channel is a multiple of the one before it; two layers read them."""
    n = Net({"x": ("N", 3, 8, 8)})
    weight, bias = n.rng.standard_normal((16, 3, 3, 3)), n.rng.standard_normal(16)
    weight[1::2], bias[1::2] = factor * weight[::2], factor * bias[::2]
    conv = n.node("Conv", "x", n.constant(weight), n.constant(bias), pads=[1] * 4, name="twins")
    h = n.node("Relu", conv)
    both = n.node("Add", n.conv(h, 16, 12, group=group), n.conv(h, 16, 12, 1))
    return n.model(n.head(n.node("Relu", both), 12, 5))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("name", "factor"), [("nu", 3.0), ("fold", 1.0)])
def test_without_a_refit_layers_read_the_heirs_for_what_went(name, factor, group):
    pytest.importorskip("scipy")
    model = doubled(factor, group)
    settings = {"criterion": name, "include": "twins", "ratio": 0.5, "refit": False}
    result = onnx_reap.reap(model, DATA, **settings)
    (kept,) = [g.after for g in result.report.groups if g.after < g.before]
    assert kept == 8
    (expected,), (found,), (sliced,) = (
        run(m, {"x": DATA}) for m in (model, result.model, onnx_reap.cut(model, result.plan))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32
    assert not np.allclose(sliced, expected, rtol=0.1)


def test_folded_filters_are_the_means_of_clusters_with_their_norm_and_readers_add_up():
    pytest.importorskip("scipy")
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Relu", n.norm(n.conv("x", 3, 3, 1, bias=False), 3))
    h = n.node("Relu", n.conv(h, 3, 3, group=3))
    model = n.model(n.head(n.node("Relu", n.conv(h, 3, 4, 1)), 4, 5))
    before = weights_of(model)
    first, scale, depthwise, reader = (
        next(k for k in before if before[k].shape == shape)
        for shape in [(3, 3, 1, 1), (3,), (3, 1, 3, 3), (4, 3, 1, 1)]
    )
    for tensor in model.graph.initializer:
        if tensor.name == first:
            values = before[first]
            values = np.array([[1, 0, 0], [0, 0, 5], [1.5, 1, 0]], np.float32).reshape(3, 3, 1, 1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, first))
    settings = {"criterion": "fold", "include": model.graph.node[0].name, "refit": False}
    result = onnx_reap.reap(model, ratio=1 / 3, **settings)
    (kept,) = [g.kept for g in result.plan.groups if len(g.kept) < g.width]
    assert kept == (1, 2)  # 0 went: 2 is larger
    after = weights_of(result.model)
    mean = np.array([1.25, 0.5, 0])
    mean *= np.sqrt((1 + 3.25) / 2) / np.linalg.norm(mean)
    np.testing.assert_allclose(after[first].reshape(2, 3), [[0, 0, 5], mean], rtol=1e-6)
    np.testing.assert_allclose(
        after[scale], [before[scale][1], before[scale][[0, 2]].mean()], rtol=1e-6
    )
    mean = before[depthwise][[0, 2]].mean(0)
    norm = np.sqrt(np.square(before[depthwise][[0, 2]]).sum() / 2)
    np.testing.assert_allclose(after[depthwise][1], mean * norm / np.linalg.norm(mean), rtol=1e-5)
    summed = before[reader][:, 0] + before[reader][:, 2]
    np.testing.assert_allclose(after[reader][:, 1], summed, rtol=1e-5)
    np.testing.assert_allclose(after[reader][:, 0], before[reader][:, 1], rtol=1e-6)


@pytest.mark.parametrize("name", CRITERIA)
def test_only_those_that_look_at_activations_run_samples(name):
    report = reap(name, ratio=0.5, refit=False).report
    assert (report.fitted is not None) == CRITERIA[name].runs


@pytest.mark.parametrize("name", ["reap", "thinet"])
def test_channels_are_chosen_in_the_space_of_channels_too(name):
    settings = {"criterion": name, "ratio": 0.5, "refit": False, "round_to": 1}
    plans = [
        onnx_reap.reap(chain(24), DATA, **settings, **more).plan.groups
        for more in ({}, {"reap_space": "patch"}, {"reap_space": "channel"})
    ]
    assert plans[0] == plans[1] != plans[2]


def test_a_missing_package_stops_before_anything_is_run(monkeypatch):
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    with pytest.raises(ReapError, match=r"--criterion lasso: .* try: pip install"):
        onnx_reap.reap("nowhere.onnx", criterion="lasso")


def test_pls_explains_labels_where_there_are_any():
    """Classes that one channel alone tells: it is the last to go."""
    pytest.importorskip("sklearn")
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Relu", n.conv("x", 3, 6, name="first"))
    model = n.model(n.head(n.conv(h, 6, 4), 4, 5))
    data = images(60)
    (hidden,) = run(with_outputs(model, [h]), {"x": data})
    for unit in (1, 4):
        largest = hidden[:, unit].max((1, 2))
        labels = (largest > np.median(largest)).astype(int)
        settings = {"criterion": "pls", "include": "first", "ratio": 5 / 6, "refit": False}
        result = onnx_reap.reap(model, data, labels=labels, round_to=1, **settings)
        (kept,) = [g.kept for g in result.plan.groups if len(g.kept) < g.width]
        assert kept == (unit,)
    with pytest.raises(UsageError, match="--labels requires --max-drop"):
        onnx_reap.reap(model, data, labels=labels, ratio=0.5, criterion="nu")
