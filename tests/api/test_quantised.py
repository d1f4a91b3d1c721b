"""Quantised models are pruned, refitted in real numbers, and written quantised again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from onnxruntime.quantization import QuantType, quantize_dynamic
from quantised import quantised, residual
from small_models import chain, images, run, weights_of

import onnx_reap
from onnx_reap import ReapError
from onnx_reap.graph.ir.model import Model


def error(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    a, b = (run(each, {"x": images(64, seed=2)})[0] for each in (model, other))
    return float(np.square(a - b).sum() / np.square(a - a.mean(0)).sum())


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return quantised(residual(), per_channel=True)


@pytest.fixture(scope="module")
def sliced(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx_reap.reap(model, images(256), target_macs=0.6, refit=False).model


@pytest.fixture(scope="module")
def refitted(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx_reap.reap(model, images(256), target_macs=0.6).model


def test_a_refit_brings_a_quantised_model_nearer(model, sliced, refitted):
    assert error(model, refitted) < error(model, sliced) / 2


def test_what_is_written_is_quantised(model, refitted):
    assert {n.op_type for n in refitted.graph.node} == {n.op_type for n in model.graph.node}
    held = weights_of(refitted)
    # Real numbers are scales alone: of every constant one, or one for each of its channels.
    assert all(x.ndim <= 1 for x in held.values() if x.dtype.kind == "f")
    makers = {name: node for node in refitted.graph.node for name in node.output}
    layers = [n for n in refitted.graph.node if n.op_type in ("Conv", "Gemm")]
    for layer in layers:
        step, scales, bias = (held[makers[name].input[1]] for name in layer.input)
        # onnxruntime's kernels take this product for granted.
        np.testing.assert_allclose(bias, step * scales, rtol=1e-6)
        assert held[makers[layer.input[2]].input[0]].dtype == np.int32
        assert np.abs(held[makers[layer.input[1]].input[0]]).max() <= 127


def optimised(model: onnx.ModelProto, folder: Path) -> Counter:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Counter(n.op_type for n in onnx.load(folder / "optimised.onnx").graph.node)


def test_onnxruntime_computes_with_the_integers(model, refitted, tmp_path: Path):
    assert optimised(refitted, tmp_path) == optimised(model, tmp_path)


def test_operators_on_integers_stay_what_they_are():
    model = quantised(residual(), "QOperator", per_channel=True)
    assert Model(model).to_proto().graph.node == model.graph.node
    small = onnx_reap.reap(model, images(256), target_macs=0.6).model
    assert [n.op_type for n in small.graph.node] == [n.op_type for n in model.graph.node]
    assert all(x.ndim <= 1 for x in weights_of(small).values() if x.dtype.kind == "f")
    onnx.checker.check_model(small, full_check=True)
    assert error(model, small) < 0.4


def test_layers_without_bias_get_one_of_integers(tmp_path: Path):
    model = residual()
    for node in model.graph.node:
        if node.op_type == "Conv":
            del node.input[2:]
    given = quantised(model, per_channel=True)
    small = onnx_reap.reap(given, images(256), target_macs=0.6).model
    held = weights_of(small)
    assert any(len(n.input) == 3 for n in small.graph.node if n.op_type == "Conv")
    assert all(x.ndim <= 1 for x in held.values() if x.dtype.kind == "f")


def test_integers_that_are_transposed_stay_integers():
    """As PyTorch writes dense layers: weights by outputs, transposed for a MatMul."""
    n = Net({"x": ("N", 3, 8, 8)}, opset=17)
    scale, zero = n.constant(np.float32(0.04)), n.constant(np.uint8(128))

    def layer(x: str, inputs: int, outputs: int) -> str:
        x = n.node("QuantizeLinear", x, scale, zero)
        x = n.node("DequantizeLinear", x, scale, zero)
        integers = n.constant(n.rng.integers(-127, 128, (outputs, inputs)).astype(np.int8))
        scales = n.constant(n.rng.uniform(0.2, 1, outputs).astype(np.float32) / inputs**0.5 / 100)
        weight = n.node("DequantizeLinear", integers, scales, axis=0)
        return n.node("MatMul", x, n.node("Transpose", weight, perm=[1, 0]))

    h = n.node("Relu", layer(n.node("Flatten", "x"), 192, 32))
    model = n.model(layer(n.node("Relu", layer(h, 32, 32)), 32, 6))
    small = onnx_reap.reap(model, images(256), target_macs=0.6, round_to=4).model
    onnx.checker.check_model(small, full_check=True)
    assert all(x.ndim <= 1 for x in weights_of(small).values() if x.dtype.kind == "f")
    assert error(model, small) < 0.3


def test_replay_makes_the_sliced_model_again(model, sliced, tmp_path: Path):
    result = onnx_reap.reap(model, images(256), target_macs=0.6, refit=False)
    again = onnx_reap.cut(model, result.plan)
    masked = onnx_reap.mask(model, result.plan)
    assert error(sliced, again) == 0
    assert error(masked, again) < 1e-3
    assert {n.op_type for n in masked.graph.node} == {n.op_type for n in model.graph.node}


def test_dynamic_quantisation_is_refused(tmp_path: Path):
    plain, path = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    onnx.save(chain(), plain)
    quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)
    model = onnx.load(path)
    for settings in ({}, {"criterion": "l1", "refit": False, "ratio": 0.5}):
        with pytest.raises(ReapError, match=r"the model is quantised.*quantise the result"):
            onnx_reap.reap(model, images(), **settings)
    assert not onnx_reap.inspect(model).groups
