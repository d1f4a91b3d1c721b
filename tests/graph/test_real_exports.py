"""Patterns of real exports: unrolled recurrent layers, filled tensors, embeddings, coupled axes."""

import numpy as np
import onnx
import pytest
from net import Net, sandwich
from oracle import assert_slice_is_mask

HIDDEN, STEPS = 6, 4


def first_state(net: Net, x: str, how: str) -> str:
    """Zeros, one row for each sample: (N, hidden)."""
    samples = net("Gather", net("Shape", x), np.array([0]))
    shape = net("Concat", samples, np.array([HIDDEN]), axis=0)
    if how == "Expand":
        return net("Expand", np.zeros((1, 1), np.float32), shape)
    return net("ConstantOfShape", shape)


def unrolled_lstm(how: str) -> onnx.ModelProto:
    """Conv `a`, columns as steps, an LSTM cell written out, a Gemm that reads its state."""
    net = Net({"x": ("N", 3, 4, STEPS)})
    x = net.conv("x", 3, 8, name="a")
    x = net("Relu", net("ReduceMax", x, axes=[2], keepdims=0))  # (N, 8, steps)
    h = c = first_state(net, x, how)
    for i in range(2):
        net.constant(net.weight(4 * HIDDEN, (8, HIDDEN)[i]), f"w{i}")
        net.constant(net.weight(4 * HIDDEN), f"b{i}")
    for step in range(STEPS):
        now = net("Gather", x, np.array(step), axis=2)
        given = net("Gemm", now, "w0", "b0", name=f"in{step}", transB=1)
        kept = net("Gemm", h, "w1", "b1", name=f"state{step}", transB=1)
        i, f, g, o = net("Split", net("Add", kept, given), outputs=4, name=f"s{step}", axis=1)
        i, f, o = (net("Sigmoid", gate) for gate in (i, f, o))
        c = net("Add", net("Mul", f, c), net("Mul", i, net("Tanh", g)))
        h = net("Mul", o, net("Tanh", c))
    return net.model(net("Gemm", h, net.weight(5, HIDDEN), net.weight(5), name="z", transB=1))


@pytest.mark.parametrize("how", ["ConstantOfShape", "Expand"])
def test_hidden_units_of_an_unrolled_lstm(how):
    """Gates, states and both weights, shared by all steps, lose a unit together."""
    studied = assert_slice_is_mask(unrolled_lstm(how), groups={"a": 8, "in0": HIDDEN})
    group = next(g for g in studied.groups if g.name == "in0")
    assert {"state0", "state3", "z"} <= set(group.consumers)


@pytest.mark.parametrize("like", ["a", "b"])
def test_zeros_of_the_shape_of_another_tensor(like):
    """What follows from the sizes of `b` must keep those of `a` where it is added to `a`."""

    def middle(net, x):
        other = net("Relu", net.conv(x, 8, 8, name="b"))
        source = x if like == "a" else other
        zeros = net("ConstantOfShape", net("Shape", source), value=one_half())
        y = net("Add", net("Relu", x), zeros)
        return net("Concat", y, other, axis=1)

    assert_slice_is_mask(sandwich(middle, out=16, size=(4, 4)), groups={"a": 8, "b": 8})


def one_half() -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([0.5], np.float32))


def test_a_filled_tensor_alone():
    """Constant channels are channels: a shape that counts others is corrected."""

    def middle(net, x):
        filled = net("ConstantOfShape", net("Shape", x), value=one_half())
        return net("Concat", net("Relu", x), net("Sigmoid", filled), axis=1)

    assert_slice_is_mask(sandwich(middle, out=16, size=(4, 4)), groups={"a": 8, "channels": 8})


def test_sizes_that_are_filled_stay_sizes():
    def middle(net, x):
        ones = net("ConstantOfShape", np.array([4]), value=whole_one())
        shape = net("Mul", net("Shape", x), ones)
        return net("Reshape", net("Relu", x), shape)

    assert_slice_is_mask(sandwich(middle), groups={"a": 8})


def whole_one() -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([1], np.int64))


def embedded(table, **more) -> onnx.ModelProto:
    net = Net({"tokens": ("N", 7)})
    x = net("Gather", table(net), "tokens", name="table", **more)
    x = net("MatMul", x, net.weight(8, 6), name="b")
    y = net("MatMul", net("Tanh", x), net.weight(6, 5), name="z")
    return net.model(y, types={"tokens": onnx.TensorProto.INT64})


def test_columns_of_an_embedding_are_channels():
    studied = assert_slice_is_mask(
        embedded(lambda net: net.weight(11, 8)), groups={"table": 8, "b": 6}
    )
    assert studied.groups[0].producers == ("table",)


def test_an_embedding_that_is_computed_stays():
    def table(net):
        size = net("Cast", net("ReduceMax", "tokens", keepdims=0), to=onnx.TensorProto.FLOAT)
        return net("Mul", net.weight(11, 8), size)

    assert_slice_is_mask(embedded(table), groups={"b": 6})


def test_a_shared_embedding_stays():
    """Another layer's inputs would take rows of the table along, and outputs its columns."""
    net = Net({"tokens": ("N", 7)})
    table = net.constant(net.weight(8, 8), "t")
    x = net("MatMul", net("Gather", table, "tokens", name="table"), net.weight(8, 8), name="b")
    y = net("MatMul", net("Tanh", x), table, name="z")
    proto = net.model(y, types={"tokens": onnx.TensorProto.INT64})
    assert_slice_is_mask(proto, groups={}, frozen={"table": "shared", "b": "otherwise"})


@pytest.mark.parametrize("op", ["Softmax", "ReduceMax"])
def test_what_is_coupled_along_another_axis_goes_as_one(op):
    """Maxout, and attention over branches: channel j of every branch goes with the others."""

    def middle(net, x):
        split = net("Reshape", net.conv(net("Relu", x), 8, 12, name="b"), np.array([0, 2, 6, 4, 4]))
        if op == "ReduceMax":
            return net(op, split, axes=[1], keepdims=0)
        weights = net("Softmax", net("ReduceMean", split, axes=[3, 4]), axis=1)
        return net("ReduceSum", net("Mul", split, weights), np.array([1]), keepdims=0)

    assert_slice_is_mask(sandwich(middle, out=6, size=(4, 4)), groups={"a": 8, "b": 6})


def test_a_norm_over_all_channels_still_freezes():
    def middle(net, x):
        return net("Div", x, net("ReduceL2", x, axes=[1]))

    assert_slice_is_mask(sandwich(middle), groups={}, frozen={"a": "ReduceL2 runs across channels"})
