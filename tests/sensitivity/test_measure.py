"""Trials: what is fed into the rest of the graph does what the whole changed graph does."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import Net, images, run

import onnx_reap
from onnx_reap.analysis import Analysis, analyse, model_inputs
from onnx_reap.capture.moments import capture_moments
from onnx_reap.data import open_calibration
from onnx_reap.graph.model import Model
from onnx_reap.select.paths import find_taps
from onnx_reap.sensitivity.divergence import divergence, metrics
from onnx_reap.sensitivity.measure import Bench, Series, measure
from onnx_reap.sensitivity.trial import Consumer, Observed
from onnx_reap.settings import Settings
from onnx_reap.solve.backend import Backend, namespace

BACKEND = Backend(*namespace("cpu"))
DATA = images(20, 6)


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
        positions=10_000,
        seed=0,
        fixed_batch=analysis.fixed_batch,
        providers=analysis.providers,
        to_device=BACKEND.to_device,
        on_batch=lambda count: None,
    )
    return analysis, Observed({t.linear.node: t for t in taps}, moments, 1e-6, BACKEND)


def outputs_with(model: Model, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Run a model as a whole, some of its constants replaced, on all of DATA."""
    proto = model.to_proto()
    for tensor in proto.graph.initializer:
        if tensor.name in constants:
            name = tensor.name
            tensor.CopyFrom(onnx_reap.graph.model.numpy_helper.from_array(constants[name], name))
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(DATA)
    parts = [run(proto, {"x": DATA[i : i + batch]})[0] for i in range(0, len(DATA), batch)]
    return np.concatenate(parts)


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
    batch = analysis.fixed_batch or 7  # 20 samples: the last batch is smaller, or filled up
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
    total, count = divergence(kinds, {y: original}, {y: other})[0]
    assert found == pytest.approx(total / count, rel=1e-3)  # float32, in another order
    assert same == pytest.approx(0, abs=1e-9)
    assert found > 1e-6


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "matmul with bias"])
def test_a_trial_does_not_read_what_is_gone_and_makes_up_for_it(name: str):
    analysis, observed = look(MODELS[name]())
    group = max(analysis.groups, key=lambda g: len(g.consumers))
    gone = set(group.units[1::2])
    for node in group.consumers:
        consumer = Consumer(analysis.copy(), node, analysis.flow, observed)
        linear = observed.taps[node].linear
        (weight, bias), (old, old_bias) = (
            consumer.without(gone).values(),
            consumer.original().values(),
        )
        units = np.isin(analysis.flow.units_along(linear.x, linear.x_axis), list(gone))
        blocks = np.split(units, linear.group)
        for g, block in enumerate(blocks):
            outputs = np.split(np.moveaxis(weight, linear.weight_out, 0), linear.group)[g]
            lost = outputs[:, block]
            np.testing.assert_array_equal(lost, 0)
        assert not np.array_equal(bias, old_bias)
        assert weight.dtype == old.dtype


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
