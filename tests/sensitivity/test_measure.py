"""Trials: what is fed into the rest of the graph does what the whole changed graph does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_models import Net, images, run

import onnx_reap
from onnx_reap import sensing
from onnx_reap.analysis import Analysis, analyse, model_inputs
from onnx_reap.capture.moments import Tap, capture_moments
from onnx_reap.capture.rows import input_rows, output_rows, sample_positions
from onnx_reap.data import open_calibration
from onnx_reap.graph.model import Model
from onnx_reap.plan.allocate import Choices
from onnx_reap.runtime import with_outputs
from onnx_reap.select.paths import find_taps
from onnx_reap.sensitivity.divergence import metrics
from onnx_reap.sensitivity.measure import Bench, Series, measure
from onnx_reap.sensitivity.trial import Consumer, Observed
from onnx_reap.settings import Settings
from onnx_reap.solve.backend import Backend, namespace

BACKEND = Backend(*namespace("cpu"))
DATA = images(18, 6)


def plain(batch="N"):
    n = Net({"x": (batch, 3, 6, 6)})
    return n.model(n.head(n.block(n.block("x", 3, 8), 8, 6), 6, 4))


def residual():
    n = Net({"x": ("N", 3, 6, 6)})
    stem = n.block("x", 3, 8)
    branch = n.norm(n.conv(n.block(stem, 8, 6), 6, 8, bias=False), 8)
    return n.model(n.head(n.block(n.node("Relu", n.node("Add", branch, stem)), 8, 5), 5, 4))


def grouped():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv(n.block("x", 3, 8), 8, 8, group=2))
    return n.model(n.head(n.block(h, 8, 6, 1), 6, 4))


def transposed():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.node("ConvTranspose", n.block("x", 3, 8), n.random(8, 6, 2, 2)))
    return n.model(n.head(h, 6, 4))


def matmul(bias: bool):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Flatten", n.node("GlobalAveragePool", n.block("x", 3, 8)))
    h = n.node("MatMul", h, n.random(8, 6))
    h = n.node("Add", h, n.random(6)) if bias else h
    return n.model(n.node("MatMul", n.node("Relu", h), n.random(6, 4)))


MODELS = {
    "plain": plain,
    "residual": residual,
    "grouped": grouped,
    "transposed": transposed,
    "matmul": lambda: matmul(False),
    "matmul with bias": lambda: matmul(True),
    "batch of 4": lambda: plain(4),
}


def look(proto) -> tuple[Analysis, Observed]:
    settings = Settings()
    inputs = model_inputs(proto)
    data = open_calibration(DATA, inputs)
    analysis = analyse(proto, inputs, data, settings)
    taps = find_taps(analysis.flow, analysis.groups)
    moments = capture_moments(
        analysis.model.to_proto(),
        taps,
        data,
        analysis.probe,
        samples=len(DATA),
        positions=10_000,
        seed=0,
        fixed_batch=analysis.fixed_batch,
        providers=analysis.providers,
        to_device=BACKEND.to_device,
        on_batch=lambda count: None,
    )
    return analysis, Observed({t.linear.node: t for t in taps}, moments, 1e-6, BACKEND)


def with_constants(proto: onnx.ModelProto, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Replace constants of a model."""
    for tensor in proto.graph.initializer:
        if tensor.name in constants:
            new = onnx.numpy_helper.from_array(constants[tensor.name], tensor.name)
            tensor.CopyFrom(new)
    return proto


def outputs_with(model: Model, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Run a model as a whole, some of its constants replaced, on all of DATA."""
    proto = with_constants(model.to_proto(), constants)
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(DATA)
    filled = DATA[np.minimum(np.arange(-(-len(DATA) // batch) * batch), len(DATA) - 1)]
    parts = [run(proto, {"x": filled[i : i + batch]})[0] for i in range(0, len(filled), batch)]
    return np.concatenate(parts)[: len(DATA)]


@pytest.mark.parametrize("name", MODELS)
def test_a_trial_measured_from_the_middle_is_the_whole_model_with_other_constants(name: str):
    analysis, observed = look(MODELS[name]())
    model = analysis.copy()
    group = max(analysis.groups, key=lambda g: len(g.consumers))
    consumers = [Consumer(model, node, analysis.flow, observed) for node in group.consumers]
    gone = set(group.units[::2])
    trial = {k: v for c in consumers for k, v in c.without(gone).items()}
    known = {k: v for c in consumers for k, v in c.original().items()}
    kinds = metrics(analysis.model, analysis.probe.shapes, analysis.probe.dtypes, "auto")
    batch = analysis.fixed_batch or 7  # 18 samples: the last batch is smaller, or filled up
    data = open_calibration(DATA, model_inputs(analysis.proto))
    bench = Bench(
        model, analysis.probe, kinds, data, batch, bool(analysis.fixed_batch), analysis.providers
    )
    dtypes = {k: v.dtype for k, v in known.items()}
    ys = tuple(c.y for c in consumers)
    ((same, found),) = measure(bench, [Series(ys, dtypes, (known, trial))], lambda: None)
    y = kinds[0].output
    original, other = outputs_with(model, {}), outputs_with(model, trial)
    np.testing.assert_allclose(original, outputs_with(analysis.model, {}), atol=1e-5)
    total = kinds[0].distance({y: original}, {y: other})
    assert found == pytest.approx(total / len(DATA), rel=1e-3)  # float32, in another order
    assert same == pytest.approx(0, abs=1e-9)
    assert found > 1e-6


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "matmul"])
def test_a_trial_is_the_least_squares_fit_with_what_is_left(name: str):
    analysis, observed = look(MODELS[name]())
    group = max(analysis.groups, key=lambda g: len(g.consumers))
    gone = set(group.units[1::2])
    for node in group.consumers:
        model = analysis.copy()
        consumer = Consumer(model, node, analysis.flow, observed)
        linear = observed.taps[node].linear
        before, after = (outputs_of(model, linear, c) for c in ({}, consumer.without(gone)))
        x = inputs_of(model, linear)
        units = np.isin(analysis.flow.units_along(linear.x, linear.x_axis), list(gone))
        columns = np.split(np.repeat(~units, linear.taps), linear.group)
        for g in range(linear.group):
            given = np.column_stack([x[g][:, columns[g]], np.ones(len(x[g]))])
            best = given @ np.linalg.lstsq(given, before[g], rcond=None)[0]
            np.testing.assert_allclose(after[g], best, atol=2e-3)  # damped by 1e-6, float32


def inputs_of(model: Model, linear) -> np.ndarray:
    """Return the layer's patches everywhere, (g, n, D)."""
    x, y = run(with_outputs(model.to_proto(), [linear.x, linear.y]), {"x": DATA})
    at = sample_positions(linear, y.shape, 10**6, np.random.default_rng(0))
    return input_rows(linear, x, y.shape, at)


def outputs_of(model: Model, linear, constants) -> np.ndarray:
    """Return what the layer gives everywhere, bias included, (g, n, O)."""
    proto = with_constants(model.to_proto(), constants)
    (y,) = run(with_outputs(proto, [linear.y]), {"x": DATA})
    at = sample_positions(linear, y.shape, 10**6, np.random.default_rng(0))
    return output_rows(linear, y, at)


@pytest.mark.parametrize("settings", [{"round_to": 16}, {"min_channels": 8}])
def test_groups_that_can_not_shrink_are_left_alone(settings):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.block(n.block(n.block("x", 3, 6), 6, 32), 32, 32)
    result = onnx_reap.reap(n.model(n.head(h, 32, 4)), images(20, 6), target_macs=0.7, **settings)
    assert result.report.groups[0].after == 6


def odd(kind: str):
    n = Net({"x": ("N", 3, 6, 6)})
    scores = n.head(n.block(n.block("x", 3, 16), 16, 16), 16, 4)
    if kind == "classes only":
        chosen = n.node("ArgMax", scores)
        return n.model(chosen, types={chosen: onnx.TensorProto.INT64})
    if kind == "scalar":
        return n.model(scores, n.node("ReduceMean", scores, keepdims=0))
    if kind == "constant":
        return n.model(scores, n.node("Identity", n.constant(np.ones(3, np.float32))))
    return n.model(n.node("Softmax", n.node("Mul", scores, n.constant(np.float32(1e-5)))))


@pytest.mark.parametrize("kind", ["classes only", "scalar", "constant", "flat softmax"])
@pytest.mark.parametrize("metric", ["auto", "kl", "error"])
def test_odd_outputs(kind: str, metric: str):
    result = onnx_reap.reap(odd(kind), images(20, 6), target_macs=0.7, metric=metric)
    assert result.report.after.macs <= 0.7 * result.report.before.macs


def test_dead_channels_are_no_sign_that_all_others_are_free():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.block(n.block("x", 3, 16), 16, 16)
    model = n.model(n.head(h, 16, 4))
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [16, 3, 3, 3]:
            dead = onnx.numpy_helper.to_array(tensor) * (np.arange(16) < 7)[:, None, None, None]
            tensor.CopyFrom(onnx.numpy_helper.from_array(dead.astype(np.float32), tensor.name))
    result = onnx_reap.reap(model, images(60, 6), target_macs=0.5)
    assert result.report.groups[0].after >= 6


def test_what_the_output_does_not_feel_goes_first():
    """Two equal branches, of which one is all but faded out behind its activation."""
    n = Net({"x": ("N", 3, 8, 8)})
    loud, soft = (n.node("Relu", n.conv(n.block("x", 3, 16), 16, 8)) for _ in range(2))
    faded = n.node("Mul", soft, n.constant(np.float32(1e-3)))
    proto = n.model(n.head(n.node("Add", loud, faded), 8, 5))
    result = onnx_reap.reap(proto, images(40), target_macs=0.75, refit=False)
    widths = {group.name: group.after for group in result.report.groups if group.before == 16}
    (first, second) = widths.values()
    assert second < first, widths


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_a_groups_error_is_the_divergence_without_the_first_units_of_its_order(
    name: str, monkeypatch
):
    monkeypatch.setattr(sensing, "TRUST", 1.0)  # in the divergence alone
    analysis, observed = look(MODELS[name]())
    widths = [np.arange(1, group.width + 1) for group in analysis.groups]
    local = [Choices(w, ((w[-1] - w) ** 1.5).astype(float)) for w in widths]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(group.width) for group in analysis.groups]
    data = open_calibration(DATA, model_inputs(analysis.proto))
    found = sensing.divergence_choices(
        analysis, local, orders, observed, data, Settings(), lambda: None
    )
    (kind,) = metrics(analysis.model, analysis.probe.shapes, analysis.probe.dtypes, "auto")
    original = {kind.output: outputs_with(analysis.model, {})}
    for group, order, before, after in zip(analysis.groups, orders, local, found, strict=True):
        tried = sensing._points(group, before)
        assert len(tried) == (2 if len(group.producers) > 1 else 1)
        for index in tried:
            model = analysis.copy()
            layers = [Consumer(model, n, analysis.flow, observed) for n in group.consumers]
            gone = {group.units[i] for i in order[: group.width - before.widths[index]]}
            trial = {k: v for layer in layers for k, v in layer.without(gone).items()}
            expected = kind.distance(original, {kind.output: outputs_with(model, trial)})
            assert after.errors[index] == pytest.approx(expected / len(DATA), rel=2e-3)
        assert after.errors[-1] == 0


def test_divergence_and_local_error_are_mixed_and_the_median_ratio_stands_in():
    local = [Choices(np.array([1, 2, 3]), np.array([4.0, 1.0, 0.0])) for _ in range(3)]
    felt = [np.array([8.0, 2.0, 0.0]), np.array([16.0, 4.0, 0.0]), None]
    first, second, third = sensing._mixed(local, felt)
    np.testing.assert_allclose(first, [4 * 2**sensing.TRUST, 2**sensing.TRUST, 0])
    np.testing.assert_allclose(second, [4 * 4**sensing.TRUST, 4**sensing.TRUST, 0])
    np.testing.assert_allclose(third, 4 * np.array([1, 0.25, 0]) * 3**sensing.TRUST)


def test_very_wide_layers_make_up_for_what_goes_by_a_coefficient_a_channel(monkeypatch):
    monkeypatch.setattr("onnx_reap.select.paths.WIDEST", 10)
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv(n.node("Relu", n.conv("x", 3, 4)), 4, 8))
    analysis, observed = look(n.model(n.gemm(n.node("Flatten", h), 8 * 36, 4)))
    group = next(g for g in analysis.groups if g.width == 8)
    (node,) = group.consumers
    assert observed.taps[node].fold is not None
    model = analysis.copy()
    consumer = Consumer(model, node, analysis.flow, observed)
    linear, gone = observed.taps[node].linear, set(group.units[::2])
    fold = observed.taps[node].fold
    x = inputs_of(model, linear)[0][:, fold].transpose(0, 2, 1).reshape(-1, 8)
    x = x - x.mean(0)
    old, found = (next(iter(c.values())) for c in (consumer.original(), consumer.without(gone)))
    units = analysis.flow.units_along(linear.x, linear.x_axis)
    stay = ~np.isin(units[fold[:, 0]], list(gone))
    best = np.linalg.lstsq(x[:, stay], x @ old[fold].reshape(8, -1), rcond=None)[0]
    np.testing.assert_allclose(found[fold[stay]].reshape(4, -1), best, atol=2e-3)  # damped by 1e-6
    np.testing.assert_array_equal(found[fold[~stay]], 0)


def test_layers_that_share_a_weight_get_one_each():
    n = Net({"x": (2, 8)})
    h = n.node("Relu", n.gemm("x", 8, 6))
    weight = n.random(6, 4)
    ends = [n.node("Gemm", h, weight, n.random(2, 4)) for _ in range(2)]  # no bias per output
    proto = n.model(*ends)
    inputs = model_inputs(proto)
    data = open_calibration(np.random.default_rng(0).standard_normal((8, 8)), inputs)
    analysis = analyse(proto, inputs, data, Settings())
    linears = [m for m in analysis.flow.linears if m.weight == weight]
    model = analysis.copy()
    observed = Observed(
        {m.node: Tap(m, 6) for m in linears}, dict.fromkeys(m.node for m in linears), 0.1, BACKEND
    )
    layers = [Consumer(model, m.node, analysis.flow, observed) for m in linears]
    assert len({name for layer in layers for name in layer.original()}) == 2
