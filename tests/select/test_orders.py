from __future__ import annotations

import numpy as np
import pytest
from small_models import Net, images, weights_of

from onnx_reap.analysis import Analysis, analyse, model_inputs
from onnx_reap.data import open_calibration
from onnx_reap.select.order import balanced, l1_order, random_order
from onnx_reap.settings import Settings


def analysed(model) -> Analysis:
    inputs = model_inputs(model)
    return analyse(model, inputs, open_calibration(images(3, 6), inputs), Settings())


def residual(group: int = 1):
    n = Net({"x": ("N", 3, 6, 6)})
    a = n.conv("x", 3, 8)
    b = n.conv(n.node("Relu", a), 8, 8, group=group)
    both = n.node("Add", a, b)
    return n.model(n.head(both, 8, 3))


def test_l1_adds_up_the_weights_of_all_producers():
    analysis = analysed(residual())
    (group,) = analysis.groups
    assert group.producers == ("conv0", "conv2")
    weights = weights_of(analysis.proto)
    norms = sum(np.abs(weights[name]).sum(axis=(1, 2, 3)) for name in ("c0", "c2"))
    order = l1_order(group, analysis.flow, analysis.model)
    assert order.tolist() == np.argsort(norms).tolist()


@pytest.mark.parametrize("transposed", [False, True])
def test_l1_of_dense_layers_and_transposed_convolutions(transposed):
    n = Net({"x": ("N", 3, 6, 6)})
    if transposed:
        weight = n.random(3, 8, 2, 2)
        h = n.node("ConvTranspose", "x", weight, strides=[2, 2])
        y = n.head(h, 8, 3)
        norms = np.abs(n.weights[weight]).sum(axis=(0, 2, 3))
    else:
        weight = n.random(8, 108)
        h = n.node("Gemm", n.node("Flatten", "x"), weight, transB=1, alpha=0.5)
        y = n.gemm(h, 8, 3)
        norms = np.abs(n.weights[weight]).sum(axis=1)
    analysis = analysed(n.model(y))
    (group,) = analysis.groups
    order = l1_order(group, analysis.flow, analysis.model)
    assert order.tolist() == np.argsort(norms).tolist()


def test_random_is_a_permutation_that_seed_and_name_decide():
    analysis = analysed(residual())
    (group,) = analysis.groups
    order = random_order(group, 3)
    assert sorted(order) == list(range(8))
    assert random_order(group, 3).tolist() == order.tolist()
    assert len({tuple(random_order(group, seed)) for seed in range(10)}) > 8


@pytest.mark.parametrize("criterion", ["l1", "random"])
def test_grouped_convolutions_lose_equally_many_in_each_part(criterion):
    analysis = analysed(residual(group=2))
    (group,) = analysis.groups
    assert group.parts is not None and group.step == 2
    if criterion == "l1":
        order = l1_order(group, analysis.flow, analysis.model)
    else:
        order = random_order(group, 0)
    assert sorted(order) == list(range(8))
    parts = np.asarray(group.parts)[order]
    assert all(set(parts[i : i + 2]) == {0, 1} for i in range(0, 8, 2))


def test_balancing_keeps_the_order_within_parts():
    order = balanced([5, 0, 1, 4, 2, 3], (0, 0, 0, 1, 1, 1))
    assert order.tolist() == [0, 5, 1, 4, 2, 3]
    assert balanced([2, 0, 1], None).tolist() == [2, 0, 1]
