"""Layers written as two are the same function, and cost what was said."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from small_models import run

from onnx_reap.data import synthetic_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.prune.low_rank.factor import (
    CHANNEL,
    SPATIAL,
    as_channels,
    as_slices,
    costs_of_rank,
    factorable,
    insert,
)
from onnx_reap.solve.eigenbases import factor, factor_slices

GEOMETRIES = {
    "plain": {"pads": [1, 1, 1, 1]},
    "no padding": {"pads": [0, 0, 0, 0]},
    "uneven": {"pads": [0, 1, 2, 3], "strides": [2, 1]},
    "dilated": {"pads": [2, 1, 2, 1], "dilations": [2, 1]},
    "all": {"pads": [1, 0, 2, 1], "strides": [2, 3], "dilations": [1, 2]},
    "same": {"pads": [], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"pads": [], "auto_pad": "SAME_LOWER", "strides": [2, 1]},
    "valid": {"pads": [], "auto_pad": "VALID"},
}


def analysed(model) -> Analysis:
    inputs = model_inputs(model, None)
    return analyse(model, inputs, synthetic_calibration(inputs, samples=4, seed=0))


def factored(model, scheme: str, node: str):
    """Write a layer as two, by white noise; return the new model, the factor and both analyses."""
    before = analysed(model)
    linear = next(each for each in before.flow.linears if each.node == node)
    stored = before.model.node(node).inputs[1].values
    weight = weight_to_matrix(linear, stored)[0]
    scale = np.linspace(0.5, 2, weight.shape[1])
    if scheme == SPATIAL:
        gram = np.eye(len(weight))
        product = factor_slices(weight, gram, scale, stored.shape[1], *linear.kernel)
        made = as_slices(linear, product, stored)
    else:
        made = as_channels(linear, factor(weight, weight.T @ weight, scale), stored)
    copy = before.copy()
    insert(copy, made)
    out = copy.to_proto()
    return out, made, before, analysed(out)


def same(model, out, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for a, b in zip(run(model, {"x": x}), run(out, {"x": x}), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-5)  # float32 sums in another order


def macs(analysis: Analysis) -> int:
    return analysis.macs.at(np.array([group.width for group in analysis.groups]))


def check_costs(made, before: Analysis, after: Analysis) -> None:
    shapes, batch = before.probe.shapes, before.probe.batch
    linear = made.linear
    whole, each = costs_of_rank(linear, made.scheme, shapes[linear.x], shapes[linear.y])
    assert macs(before) - whole // batch + each * made.rank // batch == macs(after)


@pytest.mark.parametrize("scheme", [CHANNEL, SPATIAL])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("bias", [True, False])
def test_two_convolutions_are_the_one(scheme: str, geometry: str, bias: bool):
    net = Net({"x": ("N", 6, 11, 13)})
    attributes = dict(GEOMETRIES[geometry])
    pads = attributes.pop("pads")
    h = net.node("Relu", net.conv("x", 6, 8, 3, bias=bias, pads=[1] * 4))
    weight = net.random(7, 8, 3, 2)
    more = [net.random(7)] if bias else []
    if pads:
        attributes["pads"] = pads
    h = net.node("Conv", h, weight, *more, name="layer", **attributes)
    model = net.model(net.head(net.node("Relu", h), 7, 5))
    out, made, before, after = factored(model, scheme, "layer")
    assert made.rank == (7 if scheme == CHANNEL else 14)
    same(model, out, (3, 6, 11, 13))
    check_costs(made, before, after)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_over_other_than_two_axes(rank: int):
    net = Net({"x": ("N", 3, *(6,) * rank)})
    weight = net.random(5, 3, *(3,) * rank)
    h = net.node("Conv", "x", weight, net.random(5), name="layer", strides=[2] * rank)
    model = net.model(net.node("Relu", h))
    out, made, before, after = factored(model, CHANNEL, "layer")
    same(model, out, (2, 3, *(6,) * rank))
    check_costs(made, before, after)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("opset", [9, 17])
def test_two_dense_layers_are_the_one(transposed: int, opset: int):
    net = Net({"x": ("N", 12)}, opset=opset)
    shape = (9, 12) if transposed else (12, 9)
    h = net.node(
        "Gemm", "x", net.random(*shape), net.random(9), name="layer", transB=transposed,
        alpha=0.5, beta=2.0,
    )  # fmt: skip
    model = net.model(net.node("Relu", h))
    out, made, before, after = factored(model, CHANNEL, "layer")
    same(model, out, (3, 12))
    check_costs(made, before, after)


def test_a_product_over_several_axes_keeps_the_bias_behind_it():
    net = Net({"x": ("N", 4, 12)})
    h = net.node("MatMul", "x", net.random(12, 9), name="layer")
    model = net.model(net.node("Relu", net.node("Add", h, net.random(9))))
    out, made, before, after = factored(model, CHANNEL, "layer")
    same(model, out, (3, 4, 12))
    check_costs(made, before, after)


def test_only_plain_layers_with_a_weight_of_their_own():
    net = Net({"x": ("N", 8, 6, 6)})
    h = net.conv("x", 8, 8, name="plain")
    h = net.conv(h, 8, 8, group=8, name="depthwise")
    h = net.conv(h, 8, 8, group=2, name="grouped")
    shared = net.random(8, 8, 1, 1)
    h = net.node("Conv", net.node("Conv", h, shared, name="one"), shared, name="other")
    h = net.node("ConvTranspose", h, net.random(8, 8, 2, 2), name="transposed")
    model = net.model(net.conv(h, 8, 8, name="last"))
    analysis = analysed(model)
    found = [n.node for n in analysis.flow.linears if factorable(analysis.model, n, lambda _: None)]
    assert found == ["plain", "last"]
    first = analysis.flow.linears[0]
    assert not factorable(analysis.model, first, lambda key: "excluded by --exclude")
