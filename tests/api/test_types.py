"""Models in float16, bfloat16 and float64: pruned as those in float32, written in their type."""

from __future__ import annotations

import ml_dtypes  # noqa: F401, tells NumPy of bfloat16
import numpy as np
import onnx
import pytest
from net import Net
from precision import converted
from small_models import images, run, weights_of

import onnx_reap
from onnx_reap.fields import CRITERIA
from onnx_reap.graph.ir import probe
from onnx_reap.graph.ir.model import Model
from onnx_reap.onnxio.float32 import in_float32, other_types
from onnx_reap.onnxio.light_model import LightModel

DATA = images(120)
OPSETS = {"float16": 17, "bfloat16": 22, "float64": 17}  # the first that has such convolutions
DTYPES = {name: np.dtype(name) for name in OPSETS}
BUDGET = {"target_macs": 0.6, "round_to": 1}

every_type = pytest.mark.parametrize("name", DTYPES)


def with_depthwise(opset: int = 17) -> onnx.ModelProto:
    """A residual block, a depthwise convolution and a Gemm, in float32."""
    n = Net({"x": ("N", 3, 8, 8)}, opset=opset)
    h = n.block("x", 3, 12)
    b = n.norm(n.conv(n.block(h, 12, 12), 12, 12, bias=False), 12)
    h = n.node("Relu", n.node("Add", b, h))
    h = n.block(n.block(h, 12, 16, 1), 16, 16, group=16)
    return n.model(n.head(h, 16, 5))


def built(name: str, **ends) -> onnx.ModelProto:
    return converted(with_depthwise(OPSETS[name]), DTYPES[name], **ends)


def twin(model: onnx.ModelProto) -> onnx.ModelProto:
    return in_float32(LightModel(model), other_types(model)).whole()


def error(model: onnx.ModelProto, original: onnx.ModelProto) -> float:
    """Error on other samples, of the models in float32."""
    x = {"x": images(100, seed=5)}
    a, b = (run(twin(m), x)[0] for m in (model, original))
    return float(np.square(a - b).mean() / np.var(b))


@every_type
def test_types_stay_and_the_refit_helps(name: str):
    model = built(name)
    result = onnx_reap.reap(model, DATA, **BUDGET)
    report = result.report
    assert report.after.macs <= 0.6 * report.before.macs
    assert {values.dtype for values in weights_of(result.model).values()} == {DTYPES[name]}
    for end in ("input", "output"):
        assert list(getattr(result.model.graph, end)) == list(getattr(model.graph, end))
    onnx.checker.check_model(result.model, full_check=True)
    sliced = onnx_reap.cut(model, result.plan)
    assert error(result.model, model) < 0.5 * error(sliced, model)
    assert not any("local errors" in note for note in report.notes)
    ours = [note for note in report.notes if "in its own type" in note]
    assert bool(ours) == (name != "float16")  # onnxruntime runs that one alone
    assert report.held_out.output_error[model.graph.output[0].name] < 0.15


@every_type
def test_types_cost_hardly_anything(name: str):
    single = onnx_reap.reap(with_depthwise(OPSETS[name]), DATA, **BUDGET)
    other = onnx_reap.reap(built(name), DATA, **BUDGET)
    errors = [
        error(r.model, m) for r, m in ((single, with_depthwise(OPSETS[name])), (other, built(name)))
    ]
    assert errors[1] < 1.3 * errors[0]


@every_type
def test_slice_is_mask(name: str):
    model = built(name)
    plan = onnx_reap.reap(model, criterion="l1", refit=False, **BUDGET).plan
    sliced, masked = onnx_reap.cut(model, plan), onnx_reap.mask(model, plan)
    assert {values.dtype for values in weights_of(masked).values()} == {DTYPES[name]}
    x = {"x": DATA[:8]}
    a, b = (run(twin(m), x)[0] for m in (sliced, masked))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # float32
    assert not np.allclose(b, run(twin(model), x)[0], rtol=1e-3)
    if name == "float16":
        x = {"x": DATA[:8].astype(np.float16)}
        a, b = (run(m, x)[0].astype(np.float32) for m in (sliced, masked))
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)  # float16


@every_type
def test_weights_in_front_of_all_cuts_stay_to_the_bit(name: str):
    model = built(name)
    result = onnx_reap.reap(model, DATA, include=["conv3"], ratio=0.5, joint_refit=0, tune=0)
    old, new = weights_of(model), weights_of(result.model)
    (first,) = (node.input[1] for node in model.graph.node if node.name == "conv0")
    (cut,) = (node.input[1] for node in model.graph.node if node.name == "conv3")
    assert old[first].tobytes() == new[first].tobytes()
    assert old[cut].shape[0] == 2 * new[cut].shape[0]


@every_type
def test_casts_at_both_ends(name: str):
    model = built(name, keep_io=True)
    result = onnx_reap.reap(model, DATA, **BUDGET)
    assert {values.dtype for values in weights_of(result.model).values()} == {DTYPES[name]}
    assert result.model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    notes = result.report.notes
    assert not any("local errors" in note or "pixels" in note for note in notes), notes
    assert error(result.model, model) < 0.5 * error(onnx_reap.cut(model, result.plan), model)


@every_type
def test_all_commands(name: str):
    model, quickly = built(name), {"round_to": 4, "joint_refit": 0}
    assert onnx_reap.inspect(model).total.params == onnx_reap.inspect(with_depthwise()).total.params
    labels = np.arange(len(DATA)) % 5
    (point,) = onnx_reap.sweep(model, DATA, targets=[0.7], labels=labels, **quickly)
    assert point.accuracy_after is not None
    drop = onnx_reap.reap(model, DATA, max_drop=0.2, **quickly)
    assert drop.report.after.macs < drop.report.before.macs
    assert drop.report.loss.value <= 0.2


@every_type
@pytest.mark.usefixtures("quick_measurements")
def test_latencies_are_measured(name: str):
    table = onnx_reap.profile(built(name))
    assert 0 < table.whole_ms < 1e3


@every_type
def test_blocks_are_refitted_together(name: str):
    model = built(name)
    # With fewer samples it depends on the processor's rounding whether the outputs gain.
    data = images(300)
    result = onnx_reap.reap(model, data, joint_refit=10, allocation="local", **BUDGET)
    assert any(block.error_after < block.error_before for block in result.report.blocks)
    assert {values.dtype for values in weights_of(result.model).values()} == {DTYPES[name]}


@every_type
def test_branches_that_vanish_leave_a_constant_of_their_type(name: str):
    n = Net({"x": ("N", 3, 8, 8)}, opset=OPSETS[name])
    h = n.block("x", 3, 8)
    for weak in (0.05, 1.0):
        b = n.norm(n.conv(n.block(h, 8, 12), 12, 8), 8)
        h = n.node("Relu", n.node("Add", h, n.node("Mul", b, n.constant(np.full((8, 1, 1), weak)))))
    model = n.model(n.head(h, 8, 5))
    model = converted(model, DTYPES[name])
    result = onnx_reap.reap(model, DATA, target_macs=0.55, round_to=4)
    assert any(group.after == 0 for group in result.report.groups)
    assert {values.dtype for values in weights_of(result.model).values()} == {DTYPES[name]}
    onnx.checker.check_model(result.model, full_check=True)
    assert error(result.model, model) < 0.2


def widths(result: onnx_reap.Result) -> list[int]:
    return [group.after for group in result.report.groups]


@every_type
def test_feature_maps_are_pooled(name: str):
    pytest.importorskip(CRITERIA["pls"].package)
    result = onnx_reap.reap(built(name), DATA, criterion="pls", joint_refit=0, **BUDGET)
    assert result.report.after.macs <= 0.6 * result.report.before.macs


@pytest.mark.parametrize("name", ["float16", "float64"])
def test_branches_whose_type_nothing_tells_stay(name: str):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Trilu", n.block("x", 3, 12), domain="com.microsoft")  # unknown to onnx
    for _ in range(2):
        b = n.norm(n.conv(n.block(h, 12, 12), 12, 12), 12)
        b = n.node("Mul", b, n.constant(np.full((12, 1, 1), 0.01)))
        h = n.node("Trilu", n.node("Add", b, h), domain="com.microsoft")
    model = n.model(n.head(h, 12, 5), check=False)
    budget = {"target_macs": 0.15, "round_to": 1, "joint_refit": 0}
    assert 0 in widths(onnx_reap.reap(model, DATA, **budget))
    model = converted(model, DTYPES[name])
    result = onnx_reap.reap(model, DATA, **budget)
    assert 0 not in widths(result)
    assert {values.dtype for values in weights_of(result.model).values()} == {DTYPES[name]}


def test_what_is_computed_in_a_type_that_nothing_tells_stays_computed(monkeypatch):
    n = Net({"x": ("N", 16)}, opset=22)
    turned = n.node("Transpose", n.random(16, 16, scale=0.3), name="turned")
    model = n.model(n.node("MatMul", n.node("Relu", n.gemm("x", 16, 16)), turned))
    model = converted(model, DTYPES["bfloat16"])
    infer = onnx.shape_inference.infer_shapes

    def unknowing(proto):
        known = infer(proto)
        for value in (*known.graph.value_info, *known.graph.output):
            if value.name == turned:
                value.ClearField("type")
        return known

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", unknowing)
    loaded = Model(model)
    probe.fold_constants(loaded, ["CPUExecutionProvider"])
    assert "turned" in [node.name for node in loaded.nodes]
    assert {c.values.dtype for c in loaded.constants().values()} == {DTYPES["bfloat16"]}


@every_type
def test_weights_are_folded_in_their_type(name: str):
    n = Net({"x": ("N", 16)}, opset=OPSETS[name])
    h = "x"
    for _ in range(3):
        turned = n.node("Transpose", n.random(16, 16, scale=0.3), perm=[1, 0])
        h = n.node("Relu", n.node("MatMul", h, turned))
    model = converted(n.model(h), DTYPES[name])
    data = np.random.default_rng(0).standard_normal((100, 16)).astype(np.float32)
    result = onnx_reap.reap(model, data, ratio=0.5)
    weights = weights_of(result.model).values()
    assert {values.dtype for values in weights if values.dtype != np.int64} == {DTYPES[name]}
    assert [group.after for group in result.report.groups] == [8, 8]
    onnx.checker.check_model(result.model, full_check=True)


def doubled(op: str) -> onnx.ModelProto:
    """Channels that are there twice, read with weights that float16 can't double."""
    n = Net({"x": ("N", 3, 8, 8)}, dtype=np.float16)
    half = n.rng.standard_normal((8, 3, 3, 3)) * 1e-4
    h = n.node("Relu", n.node("Conv", "x", n.constant(np.tile(half, (2, 1, 1, 1))), pads=[1] * 4))
    loud = n.rng.choice([-4e4, 4e4], (5, 8))
    if op == "Conv":
        weight = n.constant(np.tile(loud, (1, 2)).reshape(5, 16, 1, 1))
        return n.model(n.node("GlobalAveragePool", n.node("Conv", h, weight)))
    pooled = n.node("Flatten", n.node("GlobalAveragePool", h))
    return n.model(n.node(op, pooled, n.constant(np.tile(loud, (1, 2)).T)))


@pytest.mark.parametrize("op", ["Conv", "MatMul", "Gemm"])
def test_what_float16_cannot_hold_is_not_written(op: str):
    model = doubled(op)
    result = onnx_reap.reap(model, DATA, ratio=0.5, round_to=1, joint_refit=0, tune=0)
    assert all(np.isfinite(values).all() for values in weights_of(result.model).values())
    notes = result.report.notes
    assert any("was not refitted: its new weights would be too large" in n for n in notes), notes
    sliced = onnx_reap.cut(model, result.plan)
    assert {k: v.tobytes() for k, v in weights_of(sliced).items()} == {
        k: v.tobytes() for k, v in weights_of(result.model).items()
    }
