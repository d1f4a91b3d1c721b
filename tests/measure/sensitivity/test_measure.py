"""Perturbations: what is felt of a change is what the whole changed model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from net import Net
from nets import in_two_groups, stem_and_branch
from small_models import images, run

import onnx_reap
from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.edit.weights import layer_weights, set_layer, set_weight
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import capture_moments
from onnx_reap.measure.activations.rows import (
    input_rows,
    output_rows,
    sample_positions,
    weight_to_matrix,
)
from onnx_reap.measure.sensitivity import divergence, estimate, running
from onnx_reap.measure.sensitivity import evaluation as evaluating
from onnx_reap.measure.sensitivity import measure as measuring
from onnx_reap.measure.sensitivity.divergence import TEMPERATURE, Metric, metrics
from onnx_reap.measure.sensitivity.evaluation import Evaluation
from onnx_reap.measure.sensitivity.perturbation import (
    ConsumerMoments,
    ConsumerRefit,
    Perturbation,
    WeightChange,
    refits_of,
)
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.options import Settings
from onnx_reap.prune.removal_paths import find_taps
from onnx_reap.solve.allocation import Choices
from onnx_reap.solve.backend import Backend

BACKEND = Backend.cpu()
DATA = images(18, 6)
OFFSETS = np.array([0, 10, -10, 20, -20], np.float32)


def plain(outputs=1, batch="N", opset=17):
    n = Net({"x": (batch, 3, 6, 6)}, opset=opset)
    return n.model(n.head(n.block(n.block("x", 3, 8), 8, 6), 6, outputs))


def transposed(outputs=1):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.node("ConvTranspose", n.block("x", 3, 8), n.random(8, 6, 2, 2)))
    return n.model(n.head(h, 6, outputs))


def matmul(bias: bool, outputs=1):
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Flatten", n.node("GlobalAveragePool", n.block("x", 3, 8)))
    h = n.node("MatMul", h, n.random(8, 6))
    h = n.node("Add", h, n.random(6)) if bias else h
    return n.model(n.node("MatMul", n.node("Relu", h), n.random(6, outputs)))


def shared():
    """One convolution at two sizes, as the heads of detectors are."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.block("x", 3, 8)
    small = n.node("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    weight, bias = n.random(6, 8, 3, 3, scale=0.2), n.random(6)
    both = [n.node("Conv", t, weight, bias, pads=[1] * 4) for t in (h, small)]
    both = [n.node("GlobalAveragePool", n.node("Relu", t)) for t in both]
    return n.model(n.gemm(n.node("Flatten", n.node("Add", *both)), 6, 1))


def recurrent(op: str, flat: bool = False, batch="N"):
    """Steps come in front of samples; layers may read both as one axis."""
    n, gates = Net({"x": (batch, 3, 6, 6)}), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    h = n.node("Transpose", n.node("Reshape", "x", np.array([0, 3, 36])), perm=[1, 0, 2])
    h = n.node("MatMul", h, n.random(36, 8, scale=0.3))
    for size in (8, 10):
        weight, bias = n.random(2, gates * 5, size, scale=0.5), n.random(2, 2 * gates * 5)
        attributes = {"hidden_size": 5, "direction": "bidirectional"}
        h = n.node(op, h, weight, n.random(2, gates * 5, 5, scale=0.5), bias, **attributes)
        h = n.node("Reshape", n.node("Transpose", h, perm=[0, 2, 1, 3]), np.array([0, 0, -1]))
    if flat:
        h = n.node("Relu", n.gemm(n.node("Reshape", h, np.array([-1, 10])), 10, 6))
        h = n.node("Tanh", n.gemm(h, 6, 4))
        h = n.node("Reshape", h, np.array([3, -1, 4]))
    h = n.node("ReduceSum", h, np.array([0]), keepdims=0)
    return n.model(n.gemm(h, 4 if flat else 10, 1))


MODELS = {
    "shared": shared,
    "plain": plain,
    "residual": partial(stem_and_branch, 1),
    "grouped": partial(in_two_groups, 1),
    "transposed": transposed,
    "matmul": lambda: matmul(False),
    "matmul with bias": lambda: matmul(True),
    "batch of 4": lambda: plain(batch=4),
}


def look(proto, samples: np.ndarray = DATA) -> tuple[Analysis, ConsumerMoments]:
    inputs = model_inputs(proto)
    data = open_calibration(samples, inputs)
    analysis = analyse(proto, inputs, data)
    taps = find_taps(analysis, analysis.groups)
    moments = capture_moments(
        analysis,
        taps,
        data,
        Settings(positions=10_000),
        total=len(samples),
        to_device=BACKEND.to_device,
    )
    return analysis, ConsumerMoments({t.linear.node: t for t in taps}, moments, 1e-6, BACKEND)


def changed(
    analysis: Analysis, changes: Sequence[WeightChange], share: float = 1.0
) -> onnx.ModelProto:
    """Write the model with (a share of) some changes."""
    model = analysis.copy()
    for change in changes:
        weight, bias = layer_weights(model, change.linear)
        outputs = change.linear.group * weight_to_matrix(change.linear, weight).shape[2]
        weight = (weight + share * change.weight).astype(weight.dtype)
        if change.bias is None:
            set_weight(model, change.linear, weight)
        else:
            bias = np.broadcast_to(bias, outputs) + share * change.bias * change.linear.beta
            set_layer(model, change.linear, weight, bias)
    return model.to_proto()


def outputs_of_all(proto: onnx.ModelProto, data: np.ndarray = DATA) -> np.ndarray:
    """Run a model on all samples, filled up where it has a batch of its own."""
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(data)
    filled = data[np.minimum(np.arange(-(-len(data) // batch) * batch), len(data) - 1)]
    parts = [run(proto, {"x": filled[i : i + batch]})[0] for i in range(0, len(filled), batch)]
    return np.concatenate(parts)[: len(data)].astype(np.float64)


def evaluation_of(analysis: Analysis, metric: str = "auto", data: np.ndarray = DATA) -> Evaluation:
    kinds = metrics(analysis.model, analysis.probe.shapes, analysis.probe.dtypes, metric)
    return Evaluation(
        analysis, kinds, open_calibration(data, model_inputs(analysis.light.whole())), 0
    )


class Fixed(Perturbation):
    """A perturbation of given changes."""

    def __init__(self, changes: Sequence[WeightChange]) -> None:
        super().__init__((), frozenset())
        self.__dict__["made"] = changes

    @property
    def outputs(self) -> list[str]:
        return [change.linear.y for change in self.changes()]

    @property
    def entries(self) -> int:
        return sum(change.weight.size for change in self.changes())

    def changes(self) -> list[WeightChange]:
        return self.__dict__["made"]


def measure(evaluation, perturbations, on_batch):
    return measuring.measure_sensitivities(
        evaluation, [Fixed(changes) for changes in perturbations], on_batch
    )


def half_of(analysis: Analysis, observed: ConsumerMoments) -> list[WeightChange]:
    """The perturbation without every other unit of the group that most layers read."""
    group = max(analysis.groups, key=lambda g: len(g.consumers))
    consumers = refits_of(analysis.model, [group], analysis.flow, observed).values()
    return [c for consumer in consumers for c in consumer.without(set(group.units[::2]))]


def scaled(changes: Sequence[WeightChange], share: float) -> list[WeightChange]:
    return [
        replace(c, weight=share * c.weight, bias=None if c.bias is None else share * c.bias)
        for c in changes
    ]


@pytest.mark.parametrize("name", MODELS)
def test_a_small_change_of_one_number_is_felt_by_its_square(name: str):
    analysis, observed = look(MODELS[name]())
    changes = half_of(analysis, observed)
    small, none = scaled(changes, 1 / 256), scaled(changes, 0)
    seen: list[int] = []
    found, nothing = measure(evaluation_of(analysis), [small, none], seen.append)
    original, other = (outputs_of_all(changed(analysis, c)) for c in ([], small))
    expected = np.square(other - original).sum() / np.square(original - original.mean()).sum()
    assert found == pytest.approx(expected, rel=0.02)  # float32, and not quite linear
    assert found > 0
    assert nothing == 0
    assert sum(seen) == len(DATA)


@pytest.mark.parametrize(
    ("flat", "batch"),
    [(False, "N"), (True, "N"), (False, 6), (False, 1), (True, 6), (False, 3)],
)
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_changes_of_layers_that_hold_steps_in_front_of_samples_are_felt(op, flat, batch):
    """In front of recurrent layers, of such layers, and behind them."""
    analysis, observed = look(recurrent(op, flat, batch))
    nodes = dict.fromkeys(node for group in analysis.groups for node in group.consumers)
    assert len(nodes) >= 3
    original = outputs_of_all(changed(analysis, []))
    for node in nodes:
        refit = ConsumerRefit(analysis.model, node, analysis.flow, observed)
        units = sorted({*refit._units} - {0})
        changes = scaled(refit.without(units[::2]), 1 / 256)
        (found,) = measure(evaluation_of(analysis), [changes], lambda count: None)
        more, less = (outputs_of_all(changed(analysis, changes, share)) for share in (1, -1))
        expected = np.square((more - less) / 2).sum() / np.square(original - original.mean()).sum()
        assert found == pytest.approx(expected, rel=0.01), node


@pytest.mark.parametrize("name", MODELS)
def test_runs_of_the_changed_model_tell_the_same(name: str):
    analysis, observed = look(MODELS[name]())
    changes = Fixed(scaled(half_of(analysis, observed), 1 / 256))
    evaluation = evaluation_of(analysis)
    (felt,) = measuring.measure_sensitivities(evaluation, [changes])
    (found,) = running.measure_by_running(evaluation, [changes])
    assert found == pytest.approx(felt, rel=0.03)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_divergence_is_what_directions_average_to(kind: str):
    """Half of d^T (diag(p) - p p^T) d, with the scores' changes and the softened distribution."""
    rng = np.random.default_rng(0)
    y, d = rng.standard_normal((4, 6)), 1e-3 * rng.standard_normal((4, 6))
    y[1, 2] = -np.inf if kind == "logits" else y[1, 2]
    with np.errstate(over="ignore"):
        soft, p = (np.exp(y / t) / np.exp(y / t).sum(1, keepdims=True) for t in (TEMPERATURE, 1.0))
    forms = [each @ (np.diag(q) - np.outer(q, q)) @ each for each, q in zip(d, soft, strict=True)]
    given = (y, d) if kind == "logits" else (p, p * d)
    assert Metric("y", kind).divergence(*given) == pytest.approx(sum(forms) / 2, rel=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_recurrent_layers_are_run_with_their_changes(bias: bool):
    net = Net({"x": ("N", 5, 6)})
    weights = [net.weight(1, 32, size, scale=0.4) for size in (6, 8, 8, 8)]
    more = [net.weight(1, 64, scale=0.3)] if bias else []
    y = net("LSTM", net("Transpose", "x", perm=[1, 0, 2]), *weights[:2], *more, hidden_size=8)
    y = net("LSTM", net("Squeeze", y, np.array([1])), *weights[2:], *more, hidden_size=8)
    last = net("Squeeze", y, np.array([1]))
    proto = net.model(net("Transpose", net("MatMul", last, net.weight(8, 4)), perm=[1, 0, 2]))
    data = np.random.default_rng(0).standard_normal((20, 5, 6)).astype(np.float32)
    analysis, observed = look(proto, data)
    recurrent = {each.node for each in analysis.flow.linears if each.recurrent}
    group = next(g for g in analysis.groups if not recurrent.isdisjoint(g.consumers))
    consumers = refits_of(analysis.model, [group], analysis.flow, observed).values()
    (change,) = (c for each in consumers for c in each.without(set(group.units[::2])))
    (found,) = running.measure_by_running(evaluation_of(analysis, "error", data), [Fixed([change])])
    original, other = (run(changed(analysis, c), {"x": data})[0] for c in ([], [change]))
    varies = np.square(original - original.mean(axis=0)).sum()
    assert found == pytest.approx(np.square(other - original).sum() / varies, rel=1e-3)


def test_values_are_felt_relative_to_what_each_entry_varies_by():
    """Offsets between entries make no change of them smaller."""
    many = np.tile(DATA, (60, 1, 1, 1))
    n = Net({"x": ("N", 3, 6, 6)})
    n.output(n.node("Add", n.head(n.block(n.block("x", 3, 8), 8, 6), 6, 5), n.constant(OFFSETS)))
    analysis, observed = look(n.model())
    changes = scaled(half_of(analysis, observed), 1 / 64)
    (found,) = measure(evaluation_of(analysis, "error", many), [changes], lambda count: None)
    original, other = (outputs_of_all(changed(analysis, c)) for c in ([], changes))
    varies = np.square(original - original.mean(axis=0)).sum()
    assert found == pytest.approx(np.square(other - original).sum() / varies, rel=0.15)


def test_outputs_are_felt_apart():
    """Neither do twins that differ in sign cancel out, nor do their seeds ever coincide."""
    analysis, observed = look(plain())
    changes = scaled(half_of(analysis, observed), 1 / 256)
    proto = plain()
    (y,) = proto.graph.output
    proto.graph.node.append(onnx.helper.make_node("Neg", [y.name], ["minus"]))
    twin = onnx.ValueInfoProto()
    twin.CopyFrom(y)
    twin.name = "minus"
    proto.graph.output.append(twin)
    many = np.tile(DATA, (40, 1, 1, 1))
    (one,) = measure(evaluation_of(analysis, data=many), [changes], lambda count: None)
    (both,) = measure(evaluation_of(look(proto)[0], data=many), [changes], lambda count: None)
    assert both == pytest.approx(2 * one, rel=0.15)


def test_perturbations_are_divided_where_they_are_too_large_for_one_model(monkeypatch):
    analysis, observed = look(plain())
    perturbations = [
        scaled(half_of(analysis, observed), share) for share in (1 / 256, 1 / 128, 1 / 64)
    ]
    together = measure(evaluation_of(analysis), perturbations, lambda count: None)
    monkeypatch.setattr("onnx_reap.measure.sensitivity.measure.LARGEST_CONSTANTS", 1)
    seen: list[int] = []
    np.testing.assert_allclose(
        measure(evaluation_of(analysis), perturbations, seen.append), together, rtol=1e-5
    )
    assert sum(seen) == len(DATA)


@pytest.mark.parametrize("softmax", [False, True])
def test_class_scores_are_felt_by_the_divergence_of_their_distributions(softmax: bool):
    many = np.tile(DATA, (60, 1, 1, 1))  # random directions are many, too
    analysis, observed = look(plain(5))
    changes = scaled(half_of(analysis, observed), 1 / 64)
    if softmax:
        proto = plain(5)
        (y,) = proto.graph.output
        proto.graph.node.append(onnx.helper.make_node("Softmax", [y.name], ["chances"], axis=1))
        proto.graph.output[0].name = "chances"
        evaluation = evaluation_of(look(proto)[0], data=many)
        assert [metric.kind for metric in evaluation.metrics] == ["probabilities"]
    else:
        evaluation = evaluation_of(analysis, data=many)
    (found,) = measure(evaluation, [changes], lambda count: None)
    p, q = (
        np.exp(x) / np.exp(x).sum(1, keepdims=True)
        for c in ([], changes)
        for x in [outputs_of_all(changed(analysis, c)) / divergence.TEMPERATURE]
    )
    expected = divergence.TEMPERATURE**2 * (p * np.log(p / q)).sum(1).mean()
    assert found == pytest.approx(expected, rel=0.1)


def test_layers_that_no_gradient_reaches_are_not_felt():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Hardmax", n.block("x", 3, 8), axis=1)
    analysis, observed = look(n.model(n.head(n.block(n.block(h, 8, 6), 6, 6), 6, 1)))
    front, *_, last = analysis.groups
    perturbations = []
    for group in (front, last):
        layers = [
            ConsumerRefit(analysis.model, n, analysis.flow, observed) for n in group.consumers
        ]
        perturbations.append([c for layer in layers for c in layer.without({group.units[0]})])
    evaluation = evaluation_of(analysis)
    assert None not in measure(evaluation, perturbations, lambda count: None)
    linears = tuple(m for m in analysis.flow.linears if m.node != last.producers[0])
    stuck = evaluation_of(replace(analysis, flow=replace(analysis.flow, linears=linears)))
    before, behind = measure(stuck, perturbations, lambda count: None)
    assert before is None
    assert behind is not None


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "matmul"])
def test_a_perturbation_is_the_least_squares_fit_with_what_is_left(name: str):
    analysis, observed = look(MODELS[name]())
    group = max(analysis.groups, key=lambda g: len(g.consumers))
    gone = set(group.units[1::2])
    for node in group.consumers:
        (change,) = ConsumerRefit(analysis.model, node, analysis.flow, observed).without(gone)
        linear = change.linear
        before, after = (outputs_of(analysis, linear, c) for c in ([], [change]))
        x = inputs_of(analysis.model, linear)
        units = np.isin(analysis.flow.units_along(linear.x, linear.x_axis), list(gone))
        columns = np.split(np.repeat(~units, linear.taps), linear.group)
        for g in range(linear.group):
            given = np.column_stack([x[g][:, columns[g]], np.ones(len(x[g]))])
            best = given @ np.linalg.lstsq(given, before[g], rcond=None)[0]
            np.testing.assert_allclose(after[g], best, atol=2e-3)  # damped by 1e-6, float32


def test_layers_of_one_weight_are_changed_each_by_its_own_factors():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.gemm(n.node("Flatten", "x"), 108, 8))
    weight = n.random(8, 5)
    layers = [n.node("Gemm", h, weight, n.random(5), alpha=0.5, beta=b) for b in (1.0, 4.0)]
    analysis, observed = look(n.model(n.gemm(n.node("Sum", *layers), 5, 1)))
    group = next(g for g in analysis.groups if len(g.consumers) == 2)
    (consumer,) = refits_of(analysis.model, [group], analysis.flow, observed).values()
    first, second = consumer.without(set(group.units[::2]))
    np.testing.assert_allclose(second.bias * 4, first.bias, rtol=1e-6)
    assert first.bias.any()


def test_layers_that_no_refit_changes_are_tried_as_they_are():
    """One weight under two factors, and a bias that is counted zero times."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.gemm(n.node("Flatten", "x"), 108, 8))
    weight, factors = n.random(8, 5), [(1.0, 1.0), (0.5, 4.0)]
    layers = [n.node("Gemm", h, weight, n.random(5), alpha=a, beta=b) for a, b in factors]
    layers.append(n.node("Gemm", h, n.random(8, 5), n.random(5), beta=0.0))
    analysis, observed = look(n.model(n.gemm(n.node("Sum", *layers), 5, 1)))
    group = next(g for g in analysis.groups if len(g.consumers) == 3)
    gone = set(group.units[::2])
    lost = np.isin(group.units, list(gone))
    for consumer in refits_of(analysis.model, [group], analysis.flow, observed).values():
        (change,) = consumer.without(gone)
        assert change.bias is None
        weight = analysis.model.constants()[change.linear.weight].values
        np.testing.assert_array_equal(change.weight, -weight * lost[:, None])


def inputs_of(model: Model, linear) -> np.ndarray:
    """Return the layer's patches everywhere, (g, n, D)."""
    x, y = run(with_outputs(model.to_proto(), [linear.x, linear.y]), {"x": DATA})
    at = sample_positions(linear, y.shape, 10**6, np.random.default_rng(0))
    return input_rows(linear, x, y.shape, at)


def outputs_of(analysis: Analysis, linear: Linear, changes: Sequence[WeightChange]) -> np.ndarray:
    """Return what the layer gives everywhere, bias included, (g, n, O)."""
    proto = changed(analysis, changes)
    # A bias that a MatMul gets is added behind it, under the name of its result.
    (y,) = run(with_outputs(proto, [linear.y]), {"x": DATA})
    at = sample_positions(linear, y.shape, 10**6, np.random.default_rng(0))
    return output_rows(linear, y, at)


@pytest.mark.parametrize(
    ("op", "opset", "named"), [("Hardmax", 17, "Hardmax"), ("Resize", 10, "operator set 10")]
)
def test_groups_that_no_gradient_reaches_are_run_or_told(monkeypatch, op, opset, named):
    n = Net({"x": ("N", 3, 6, 6)}, opset=opset)
    h = n.block(n.block("x", 3, 16), 16, 16)
    if op == "Hardmax":
        h = n.node(op, h, axis=1)
    else:  # it had other inputs
        h = n.node(op, h, n.constant([1.0, 1.0, 2.0, 2.0]))
    proto = n.model(n.head(n.block(h, 16, 16), 16, 4))
    settings = {"target_macs": 0.7, "joint_refit": 0, "tune": 0}
    assert not onnx_reap.reap(proto, images(40, 6), **settings).report.notes
    monkeypatch.setattr(running, "ARITHMETIC", 1e3)
    notes = onnx_reap.reap(proto, images(40, 6), **settings).report.notes
    assert any(f"gradients don't pass {named}" in note for note in notes), notes


def test_nothing_is_measured_where_samples_are_not_told_from_steps(monkeypatch):
    monkeypatch.setattr(evaluating, "in_front_of_samples", lambda analysis, layers: {})
    analysis, observed = look(recurrent("GRU"))
    last = analysis.flow.linears[1].node
    refit = ConsumerRefit(analysis.model, last, analysis.flow, observed)
    changes = refit.without(sorted({*refit._units} - {0})[::2])
    assert measure(evaluation_of(analysis), [changes], lambda count: None) == [None]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_all_groups_of_recurrent_models_are_known(op):
    notes = onnx_reap.reap(recurrent(op), images(40, 6), target_macs=0.8).report.notes
    assert not any("sensitivity" in note for note in notes), notes


def test_layers_that_lead_to_no_output_that_is_compared_are_told():
    n = Net({"x": ("N", 3, 6, 6)})
    scores, others = (n.head(n.block(n.block("x", 3, 16), 16, 16), 16, 4) for _ in range(2))
    proto = n.model(scores, n.node("ArgMax", others, axis=1))
    notes = onnx_reap.reap(proto, images(40, 6), target_macs=0.7).report.notes
    assert any("the sensitivity of 2 of 4 groups is unknown" in note for note in notes), notes


@pytest.mark.parametrize("batch", ["N", 6])
def test_newer_operator_sets_draw_directions_too(batch):
    """From version 22 on onnxruntime has no RandomNormalLike."""
    found = []
    for opset in (21, 22):
        proto = plain(5, batch, opset)
        analysis, observed = look(proto)
        evaluation = evaluation_of(analysis, data=np.tile(DATA, (40, 1, 1, 1)))
        found += measure(evaluation, [half_of(analysis, observed)], lambda count: None)
    assert found[1] == pytest.approx(found[0], rel=0.15)  # the directions are others
    assert found[0] != found[1] > 0


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
        return n.model(chosen)
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
def test_a_groups_error_is_what_is_felt_without_the_first_units_of_its_order(
    name: str, monkeypatch
):
    monkeypatch.setattr(estimate, "WEIGHT", 1.0)  # in what is felt alone
    analysis, observed = look(MODELS[name]())
    widths = [np.arange(1, group.width + 1) for group in analysis.groups]
    local = [Choices(w, ((w[-1] - w) ** 1.5).astype(float)) for w in widths]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(group.width) for group in analysis.groups]
    data = open_calibration(DATA, model_inputs(analysis.light.whole()))
    found, notes = estimate.divergence_choices(
        analysis, local, orders, observed, data, Settings(), lambda count: None
    )
    assert not notes
    groups = analysis.groups
    for group, order, before, after in zip(groups, orders, local, found, strict=True):
        tried = estimate._points(before, estimate._count(group, False))
        assert len(tried) == (2 if len(group.producers) > 1 else 1)
        perturbations = []
        for index in tried:
            layers = [
                ConsumerRefit(analysis.model, n, analysis.flow, observed) for n in group.consumers
            ]
            gone = {group.units[i] for i in order[: group.width - before.widths[index]]}
            perturbations.append([c for layer in layers for c in layer.without(gone)])
        expected = measure(evaluation_of(analysis), perturbations, lambda count: None)
        # Narrower is never felt less.
        expected = np.maximum.accumulate(expected[::-1])[::-1]
        np.testing.assert_allclose(after.errors[tried], expected, rtol=1e-4)
        assert after.errors[-1] == 0


def test_divergence_and_local_error_are_mixed_and_the_median_ratio_stands_in():
    local = [Choices(np.array([1, 2, 3]), np.array([4.0, 1.0, 0.0])) for _ in range(3)]
    felt = [np.array([8.0, 2.0, 0.0]), np.array([16.0, 4.0, 0.0]), None]
    first, second, third = estimate._mixed(local, felt)
    np.testing.assert_allclose(first, [4 * 2**estimate.WEIGHT, 2**estimate.WEIGHT, 0])
    np.testing.assert_allclose(second, [4 * 4**estimate.WEIGHT, 4**estimate.WEIGHT, 0])
    np.testing.assert_allclose(third, 4 * np.array([1, 0.25, 0]) * 3**estimate.WEIGHT)


def test_local_errors_count_less_the_less_their_units_compare():
    """Of groups that the output feels alike, none looks much cheaper, in whatever unit it errs."""
    felt = np.array([4.0, 1.0, 0.0])
    cheapest = []
    for unit in (2.0, 10.0, 1e3, 1e6):
        local = [Choices(np.array([1, 2, 3]), felt * unit**k) for k in range(4)]
        mixed = estimate._mixed(local, [felt] * 4)
        cheapest.append(mixed[0][0] / mixed[3][0])
    assert cheapest[0] == pytest.approx(2 ** (-3 * (1 - estimate.WEIGHT)))  # within the usual
    assert 0.8 < cheapest[1] < cheapest[2] < cheapest[3] < 1


def test_very_wide_layers_make_up_for_what_goes_by_a_coefficient_a_channel(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.removal_paths.WIDEST", 10)
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv(n.node("Relu", n.conv("x", 3, 4)), 4, 8))
    analysis, observed = look(n.model(n.gemm(n.node("Flatten", h), 8 * 36, 4)))
    group = next(g for g in analysis.groups if g.width == 8)
    (node,) = group.consumers
    assert observed.taps[node].fold is not None
    consumer = ConsumerRefit(analysis.model, node, analysis.flow, observed)
    linear, gone = observed.taps[node].linear, set(group.units[::2])
    fold = observed.taps[node].fold
    x = inputs_of(analysis.model, linear)[0][:, fold].transpose(0, 2, 1).reshape(-1, 8)
    x = x - x.mean(0)
    old = layer_weights(analysis.model, linear)[0].astype(np.float64)
    (change,) = consumer.without(gone)
    found = old + change.weight
    units = analysis.flow.units_along(linear.x, linear.x_axis)
    stay = ~np.isin(units[fold[:, 0]], list(gone))
    best = np.linalg.lstsq(x[:, stay], x @ old[fold].reshape(8, -1), rcond=None)[0]
    np.testing.assert_allclose(found[fold[stay]].reshape(4, -1), best, atol=2e-3)  # damped by 1e-6
    np.testing.assert_allclose(found[fold[~stay]], 0, atol=1e-6)


def test_coordinates_are_tried_at_more_widths():
    """The first that go are felt far less than their local error says."""
    analysis, _ = look(MODELS["plain"]())
    group = analysis.groups[0]
    assert estimate._count(group, False) == 1 and estimate._count(group, True) == 4
