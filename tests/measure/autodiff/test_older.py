"""Old operator sets: a rewritten model computes what the old one does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from net import Net
from small_models import images, run

import onnx_reap
from onnx_reap.measure.autodiff.older import WRITTEN_IN, as_written
from onnx_reap.measure.autodiff.tape import opset
from onnx_reap.onnxio.light_model import LightModel


def with_all(version: int) -> onnx.ModelProto:
    """A net of operators that were written in another way, or whose specification changed."""
    n = Net({"x": (2, 4, 6, 6)}, opset=max(version, 9))
    h = n.node("Conv", "x", n.random(4, 4, 3, 3), n.random(4), pads=[1] * 4)
    scales = [n.random(4) for _ in range(3)]
    h = n.node("BatchNormalization", h, *scales, n.constant(np.ones(4, np.float32)))
    h = n.node("Clip", h, min=-0.5, max=0.75)
    h = n.node("Clip", h, max=0.7)
    h = n.node("Pad", h, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.25)
    if version < 10:
        h = n.node("Slice", h, starts=[1, 0], ends=[6, 9], axes=[2, 3])
    h = n.node("MaxPool", h, kernel_shape=[2, 2])
    h = n.node("Concat", h, n.node("AveragePool", h, kernel_shape=[1, 1]), axis=1)
    h = n.node("Flatten", n.node("ReduceMean", h, axes=[2, 3], keepdims=0))
    model = n.model(n.node("Softmax", n.node("Gemm", h, n.random(8, 5), n.random(5))))
    if version < 9:
        spatial = onnx.helper.make_attribute("spatial", 1)
        next(x for x in model.graph.node if x.op_type.startswith("Batch")).attribute.append(spatial)
        model.opset_import[0].version = version
    return model


@pytest.mark.parametrize("version", [7, 8, 9, 10])
def test_an_old_model_computes_the_same_in_a_newer_set(version):
    model = with_all(version)
    model.ir_version = 3 if version < 9 else 8
    found = as_written(LightModel(model))
    assert opset(found) == WRITTEN_IN
    assert found.proto.ir_version == (4 if version < 9 else 8)
    assert opset(LightModel(model)) == version  # the given one stays
    feed = {"x": images(2, 6, channels=4)}
    np.testing.assert_array_equal(run(found.whole(), feed)[0], run(model, feed)[0])


UNARY = {
    **{op: {"axis": 1} for op in ("ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "Softmax")},
    **{op: {"axis": 2} for op in ("Flatten", "Split")},
    **{
        f"Reduce{kind}": {"axes": [1, 3], "keepdims": 0}
        for kind in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    "AveragePool": {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
    "Cast": {"to": 6},
    "DepthToSpace": {"blocksize": 2},
    "Dropout": {"ratio": 0.5},
    "Clip": {"min": 0.1},
    "MaxPool": {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"},
    "Pad": {"pads": [0, 0, 2, -1, 0, 0, -1, 1], "mode": "reflect"},
    "Unsqueeze": {"axes": [0]},
}
"""Operators of one input, with attributes; all write what they did."""


@pytest.mark.parametrize("op", UNARY)
def test_operators_of_one_input_mean_what_they_did(op):
    n = Net({"x": (2, 4, 6, 6)}, opset=9)
    model = n.model(
        n.node(op, "x", outputs=2, **UNARY[op])[0]
        if op == "Split"
        else n.node(op, "x", **UNARY[op])
    )
    found = as_written(LightModel(model))
    assert opset(found) == WRITTEN_IN
    feed = {"x": 3 * images(2, 6, channels=4)}
    np.testing.assert_array_equal(run(found.whole(), feed)[0], run(model, feed)[0])


OTHERS = {
    **{op: ([(2, 4, 6, 6)], {}) for op in ("Greater", "Less", "Max", "Mean", "Min", "Sum")},
    "MatMul": ([(6, 3)], {}),
    "PRelu": ([(4, 1, 1)], {}),
    "Concat": ([(2, 3, 6, 6)], {"axis": 1}),
    "Conv": ([(6, 2, 3, 3), (6,)], {"group": 2, "auto_pad": "SAME_LOWER"}),
    "ConvTranspose": ([(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
}
"""The same with constants of some shapes."""


@pytest.mark.parametrize("op", OTHERS)
def test_operators_of_several_inputs_mean_what_they_did(op):
    shapes, attributes = OTHERS[op]
    n = Net({"x": (2, 4, 6, 6)}, opset=9)
    model = n.model(n.node(op, "x", *(n.random(*shape) for shape in shapes), **attributes))
    found = as_written(LightModel(model))
    assert opset(found) == WRITTEN_IN
    feed = {"x": images(2, 6, channels=4)}
    np.testing.assert_array_equal(run(found.whole(), feed)[0], run(model, feed)[0])


def test_a_slice_that_has_inputs_already_is_kept():
    n = Net({"x": (2, 4, 6, 6)}, opset=10)
    model = n.model(n.node("Slice", "x", np.array([1]), np.array([3]), np.array([1])))
    found = as_written(LightModel(model))
    assert opset(found) == WRITTEN_IN
    feed = {"x": images(2, 6, channels=4)}
    np.testing.assert_array_equal(run(found.whole(), feed)[0], run(model, feed)[0])


def test_models_with_doubles_stay_as_they_are():
    """The value that a Pad takes as an input would have to be one, too."""
    n = Net({"x": ("N", 3, 8, 8)}, opset=10)
    h = n.node("Cast", n.block("x", 3, 12), to=onnx.TensorProto.DOUBLE)
    h = n.node("Pad", h, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
    h = n.node("Cast", h, to=onnx.TensorProto.FLOAT)
    proto = n.model(n.head(n.block(h, 12, 12), 12, 5))
    light = LightModel(proto)
    assert as_written(light) is light
    assert onnx_reap.reap(proto, images(24), target_macs=0.7).report.after.macs


@pytest.mark.parametrize("op", ["Round", "Conv", "If"])
def test_what_cannot_be_written_in_it_stays_as_it_is(op):
    n = Net({"x": (2, 4, 6, 6)}, opset=9)
    model = LightModel(n.model(n.node("Relu", "x")))
    (node,) = model.graph.node
    node.op_type = op
    if op == "If":
        body = onnx.helper.make_graph([], "body", [], [])
        node.attribute.append(onnx.helper.make_attribute("then_branch", body))
    found = as_written(model)
    assert opset(found) == (WRITTEN_IN if op == "Conv" else 9)
    assert (found is model) == (op != "Conv")


@pytest.mark.parametrize("version", [6, 11, 17])
def test_models_that_are_as_new_or_far_too_old_stay_as_they_are(version):
    n = Net({"x": (2, 4, 6, 6)}, opset=version)
    model = LightModel(n.model(n.node("Relu", "x")))
    assert as_written(model) is model


def test_models_that_were_normalised_by_place_stay_as_they_are():
    model = with_all(7)
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    next(a for a in norm.attribute if a.name == "spatial").i = 0
    light = LightModel(model)
    assert as_written(light) is light


@pytest.mark.parametrize("version", [9, 10])
def test_layers_of_old_models_are_tuned_together(version):
    n = Net({"x": ("N", 3, 8, 8)}, opset=version)
    h = n.node("Clip", n.norm(n.conv("x", 3, 12), 12), min=0.0, max=6.0)
    h = n.node("Clip", n.norm(n.conv(h, 12, 12), 12), min=0.0, max=6.0)
    proto = n.model(n.head(n.node("Pad", h, pads=[0, 0, 1, 1, 0, 0, 1, 1]), 12, 5))
    result = onnx_reap.reap(proto, images(60), target_macs=0.6, tune=20)
    assert result.model.opset_import[0].version == version
    assert [node.op_type for node in result.model.graph.node].count("Clip") == 2
    network = result.report.network
    assert network is not None
    assert len(network.nodes) == 3
    assert not network.left
    assert not any("gradient" in note for note in result.report.notes)
