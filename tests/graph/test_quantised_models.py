"""Quantised models: integers, scales and zero points are cut together."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from net import Net
from onnxruntime.quantization import QuantType
from oracle import Studied, assert_costs_of_real_numbers, assert_same_function, choose, study
from quantised import quantised, residual
from small_models import images, run, weights_of

from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.unrounded import unrounded

SETTINGS: dict[str, dict[str, Any]] = {
    "per tensor": {},
    "per channel": {"per_channel": True},
    "unsigned": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "signed activations": {"activation_type": QuantType.QInt8, "per_channel": True},
    "seven bits": {"per_channel": True, "reduce_range": True},
    "asymmetric": {"extra_options": {"WeightSymmetric": False}},
    "sixteen bits": {
        "activation_type": QuantType.QUInt16,
        "weight_type": QuantType.QInt16,
        "extra_options": {"UseQDQContribOps": False},
    },
    "weights rounded in the graph": {
        "per_channel": True,
        "extra_options": {"AddQDQPairToWeight": True},
    },
    "dedicated pairs": {"extra_options": {"DedicatedQDQPair": True}},
    "without biases": {"extra_options": {"QuantizeBias": False}},
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def model(request) -> onnx.ModelProto:
    return quantised(residual(), **SETTINGS[request.param])


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def integers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {n: w for n, w in weights_of(model).items() if w.dtype.kind in "iu" and w.ndim > 1}


def test_a_model_that_nobody_touched_is_written_as_it_was(model: onnx.ModelProto):
    again = Model(model).to_proto()
    assert {k: n.SerializeToString() for k, n in makers(again).items()} == {
        k: n.SerializeToString() for k, n in makers(model).items()
    }
    before, after = weights_of(model), weights_of(again)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name], after[name])


def smooth(studied: Studied, proto: onnx.ModelProto) -> onnx.ModelProto:
    without = unrounded(Model(proto).to_light(), studied.probe.shapes).whole()
    assert not any("QuantizeLinear" in node.op_type for node in without.graph.node)
    return without


def test_cut_is_mask(model: onnx.ModelProto):
    studied = study(model)
    assert [group.width for group in studied.groups] == [16, 16, 16], studied.frozen
    removed = choose(studied.groups, 0.5)
    masked, cut = studied.mask(removed), studied.cut(removed)
    onnx.checker.check_model(cut, full_check=True)
    assert_same_function(smooth(studied, masked), smooth(studied, cut), (1, 3), 2e-5)
    # With rounding: a sum in another order may take the other of two integers, seldom.
    wanted, found = (run(each, {"x": images(64)})[0] for each in (masked, cut))
    assert np.mean(np.abs(wanted - found) > 1e-5) < 0.02
    assert_costs_of_real_numbers(studied, removed, cut)


def test_integers_are_cut_and_not_rounded_again(model: onnx.ModelProto):
    studied = study(model)
    cut = studied.cut(choose(studied.groups, 0.5))
    before, after = integers(model), integers(cut)
    assert before.keys() == after.keys()
    for name, array in after.items():
        assert array.size < before[name].size
        assert {*np.unique(array)} <= {*np.unique(before[name])}


def test_activations_with_a_scale_for_every_channel():
    n = Net({"x": ("N", 3, 6, 6)}, opset=17)
    scales = n.constant(n.rng.uniform(0.01, 0.03, 8).astype(np.float32), "scales")
    zeros = n.constant(n.rng.integers(100, 150, 8).astype(np.uint8), "zeros")
    h = n.node("QuantizeLinear", n.conv("x", 3, 8), scales, zeros)
    h = n.node("MaxPool", n.node("DequantizeLinear", h, scales, zeros), kernel_shape=[2, 2])
    studied = study(n.model(n.conv(h, 8, 4)))
    assert [group.width for group in studied.groups] == [8]
    removed = choose(studied.groups, 0.5)
    masked, cut = studied.mask(removed), studied.cut(removed)
    onnx.checker.check_model(cut, full_check=True)
    assert_same_function(smooth(studied, masked), smooth(studied, cut), (1, 3), 2e-5)
    assert_costs_of_real_numbers(studied, removed, cut)


def test_activations_with_a_computed_scale_freeze():
    n = Net({"x": ("N", 3, 6, 6)}, opset=17)
    h, scale, zero = n.node("DynamicQuantizeLinear", n.conv("x", 3, 8), outputs=3)
    studied = study(n.model(n.conv(n.node("DequantizeLinear", h, scale, zero), 8, 4)))
    assert not studied.groups
