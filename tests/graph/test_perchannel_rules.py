"""Normalisations, pooling, reductions, resizing."""

import numpy as np
import pytest
from net import sandwich
from oracle import assert_slice_is_mask
from versions import needs_onnxruntime

ints = np.array


def floats(*values):
    return np.array(values, np.float32)


def _check(middle, groups=None, frozen=None, **options):
    groups = {"a": 8} if groups is None else groups
    return assert_slice_is_mask(sandwich(middle, **options), groups=groups, frozen=frozen)


def _norm(net, width=8):
    return net.weight(width), net.weight(width)


def _positive(net, width=8):
    return np.abs(net.weight(width)) + 0.5


@pytest.mark.parametrize("opset", [9, 14, 17])
def test_batch_normalization(opset):
    _check(
        lambda n, x: n("BatchNormalization", x, *_norm(n), n.weight(8), _positive(n)), opset=opset
    )


def test_batch_normalization_in_training_mode_freezes():
    def middle(net, x):
        inputs = (*_norm(net), net.weight(8), _positive(net))
        return net("BatchNormalization", x, *inputs, training_mode=1, outputs=3)[0]

    _check(middle, groups={}, frozen={"a": "training mode"})


def test_batch_normalization_behind_a_dense_layer():
    def middle(net, x):
        x = net("Flatten", net("GlobalAveragePool", x))
        return net("BatchNormalization", x, *_norm(net), net.weight(8), _positive(net))

    _check(middle, head="gemm")


def test_instance_normalization():
    _check(lambda net, x: net("InstanceNormalization", x, *_norm(net)))


def test_group_normalization_in_disguise_goes_by_groups():
    """Reshape, InstanceNormalization, Reshape: a channel can only go with its whole group."""

    def middle(net, x):
        y = net("Reshape", x, ints([0, 4, -1]))
        y = net("InstanceNormalization", y, np.ones(4, np.float32), np.zeros(4, np.float32))
        y = net("Reshape", y, net("Shape", x))
        return net("Add", net("Mul", y, net.weight(8, 1, 1)), net.weight(8, 1, 1))

    _check(middle, groups={"a": 4})


def test_group_normalization_of_one_group_freezes():
    def middle(net, x):
        y = net("Reshape", x, ints([0, 1, -1]))
        y = net("InstanceNormalization", y, np.ones(1, np.float32), np.zeros(1, np.float32))
        return net("Reshape", y, net("Shape", x))

    _check(middle, groups={}, frozen={"a": "nothing of a tensor"})


def test_group_normalization_goes_by_groups():
    def middle(net, x):
        return net("GroupNormalization", x, *_norm(net), num_groups=4)

    studied = _check(middle, groups={"a": 4}, opset=21, check=False)
    cut = studied.cut(studied.groups[0].units[:1])
    (node,) = (node for node in cut.graph.node if node.op_type == "GroupNormalization")
    assert node.attribute[0].i == 3


@pytest.mark.parametrize("op", ["RMSNormalization", "LayerNormalization"])
def test_normalization_of_the_space(op):
    def middle(net, x):
        scale = net.weight(6, 6)
        return net(op, x, scale, axis=2)

    _check(middle, opset=23 if op.startswith("RMS") else 17, check=False)


def test_rms_normalization_across_channels_freezes():
    def middle(net, x):
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        x = net("RMSNormalization", x, net.weight(8), axis=-1)
        return net("Transpose", x, perm=[0, 3, 1, 2])

    _check(middle, groups={}, frozen={"a": "across channels"}, opset=23, check=False)


def test_mean_variance_normalization():
    _check(lambda net, x: net("MeanVarianceNormalization", x, axes=[2, 3]), check=False)


def test_mean_variance_normalization_across_channels_freezes():
    def middle(net, x):
        return net("MeanVarianceNormalization", x, axes=[0, 1, 2, 3])

    _check(middle, groups={}, frozen={"a": "across channels"}, check=False)


def test_layer_normalization_across_channels_freezes():
    def middle(net, x):
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        x = net("LayerNormalization", x, *_norm(net), axis=-1)
        return net("Transpose", x, perm=[0, 3, 1, 2])

    _check(middle, groups={}, frozen={"a": "LayerNormalization runs across channels"})


def test_layer_normalization_over_space():
    _check(lambda n, x: n("LayerNormalization", x, n.weight(6, 6), n.weight(6, 6), axis=2))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_across_channels_freezes(op, opset):
    _check(lambda n, x: n(op, x, axis=1), {}, {"a": "runs across channels"}, opset=opset)


def test_softmax_over_space():
    _check(lambda net, x: net("Softmax", x, axis=3), opset=13)
    _check(lambda net, x: net("Softmax", x, axis=2), opset=11)


def test_argmax_across_channels_freezes():
    def middle(net, x):
        return net("Cast", net("ArgMax", x, axis=1), to=1)

    _check(middle, groups={}, frozen={"a": "ArgMax runs across channels"}, out=1)


def test_argmax_over_space():
    _check(lambda net, x: net("Cast", net("ArgMax", x, axis=3), to=1))


def test_lrn_keeps_its_input_and_picks_from_its_output():
    """Neighbours need each other, but the consumer may take fewer of them."""
    _check(
        lambda net, x: net("LRN", x, size=3, alpha=0.5, name="n"),
        {"n": 8},
        {"a": "runs across channels"},
    )


@pytest.mark.parametrize("op", ["LpNormalization", "CumSum"])
@pytest.mark.parametrize("axis", [1, 2])
def test_couplings_along_an_axis(op, axis):
    def middle(net, x):
        return net(op, x, ints(axis)) if op == "CumSum" else net(op, x, axis=axis)

    if axis == 1:
        _check(middle, groups={}, frozen={"a": f"{op} runs across channels"})
    else:
        _check(middle)


@pytest.mark.parametrize("axis", [1, 2])
def test_sequences_that_are_reversed(axis):
    """By lengths that follow from the sizes of what holds the channels."""

    def middle(net, x):
        order = [axis, 0, *({1, 2, 3} - {axis})]
        first = net("Transpose", x, perm=order)
        shape = net("Shape", first)
        length, batch = (net("Gather", shape, ints([place])) for place in (0, 1))
        turned = net("ReverseSequence", first, net("Expand", length, batch))
        return net("Transpose", turned, perm=np.argsort(order).tolist())

    if axis == 1:
        _check(middle, groups={}, frozen={"a": "ReverseSequence runs across channels"})
    else:
        _check(middle)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("more", [{}, {"strides": [2, 2]}, {"pads": [1, 1, 1, 1]}], ids=str)
def test_pooling(op, more):
    _check(lambda net, x: net(op, x, kernel_shape=[3, 3], **more))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pooling(op):
    _check(lambda net, x: net("Flatten", net(op, x)), head="gemm")


@pytest.mark.parametrize("used", [True, False])
def test_indices_of_max_pool_count_channels(used):
    def middle(net, x):
        y, indices = net("MaxPool", x, kernel_shape=[2, 2], outputs=2)
        return net("Add", y, net("Cast", indices, to=1)) if used else y

    if used:
        _check(middle, groups={}, frozen={"a": "no rule for output"})
    else:
        _check(middle)


def test_indices_of_max_pool_as_graph_output_freeze():
    def middle(net, x):
        y, indices = net("MaxPool", x, kernel_shape=[2, 2], outputs=2)
        net.output(indices)
        return y

    _check(middle, groups={}, frozen={"a": "no rule for output"})


REDUCTIONS = [
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
]


def _reduce(net, op, x, axes, opset, **more):
    as_input = opset >= 18 or (op == "ReduceSum" and opset >= 13)
    return net(op, x, ints(axes), **more) if as_input else net(op, x, axes=axes, **more)


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reduce_over_space(op, opset):
    def middle(net, x):
        loud = net("Mul", x, np.float32(2))  # for a product of 36
        return _reduce(net, op, loud, [2, 3], opset, keepdims=1)

    _check(middle, opset=opset)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_reduce_without_keeping_dimensions(opset, axes):
    def middle(net, x):
        return _reduce(net, "ReduceMean", x, axes, opset, keepdims=0)

    _check(middle, opset=opset, head="gemm")


@pytest.mark.parametrize("opset", [13, 18])
def test_reduce_over_channels_freezes(opset):
    def middle(net, x):
        return _reduce(net, "ReduceMean", x, [1], opset, keepdims=1)

    _check(middle, groups={}, frozen={"a": "runs across channels"}, opset=opset, out=1)


def test_reduce_over_everything_freezes():
    _check(lambda net, x: net("Mul", x, net("ReduceMax", x)), {}, {"a": "runs across channels"})


@needs_onnxruntime(1, 24, 1, why="older ones refuse a sum over no axes")
def test_reduce_over_nothing():
    _check(lambda net, x: net("ReduceSum", x, noop_with_empty_axes=1), opset=13)


def test_spatial_gate_of_channel_statistics():
    """CBAM: the reduction freezes what it reduces over."""

    def middle(net, x):
        y = net.conv(x, 8, 6, name="b")
        mean, top = (net(f"Reduce{kind}", y, axes=[1], keepdims=1) for kind in ("Mean", "Max"))
        gate = net("Sigmoid", net.conv(net("Concat", mean, top, axis=1), 2, 1, 3, name="g"))
        return net("Mul", y, gate)

    _check(middle, {"a": 8}, {"b": "runs across channels"}, out=6)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_by_scales(opset, mode):
    def middle(net, x):
        return net("Resize", x, floats(), floats(1, 1, 2, 2), mode=mode)

    _check(middle, opset=opset)


@pytest.mark.parametrize("opset", [11, 13])
def test_resize_to_sizes_that_contain_the_channels(opset):
    empty = (floats(), floats()) if opset == 11 else ("", "")
    _check(
        lambda n, x: n("Resize", x, *empty, ints([2, 8, 9, 9]), mode="linear"), opset=opset, batch=2
    )


def test_resize_to_sizes_computed_from_shapes():
    def middle(net, x):
        head = net("Slice", net("Shape", x), ints([0]), ints([2]))
        return net("Resize", x, "", "", net("Concat", head, ints([12, 12]), axis=0), mode="nearest")

    _check(middle)


def test_resize_to_sizes_with_hard_coded_channels():
    def middle(net, x):
        batch = net("Slice", net("Shape", x), ints([0]), ints([1]))
        return net("Resize", x, "", "", net("Concat", batch, ints([8, 12, 12]), axis=0))

    _check(middle)


@pytest.mark.parametrize("axes", [[2, 3], [1, 2, 3]])
def test_resize_of_some_axes(axes):
    sizes = ints([8, 9, 9][-len(axes) :])
    _check(lambda net, x: net("Resize", x, "", "", sizes, axes=axes), opset=18)


def test_resize_of_channels_freezes():
    def middle(net, x):
        return net("Resize", x, "", floats(1, 2, 1, 1), mode="nearest")

    _check(middle, groups={}, frozen={"a": "nothing of a tensor"}, out=16)


def test_upsample():
    def middle(net, x):
        return net("Upsample", x, floats(1, 1, 2, 2), mode="nearest")

    _check(middle, opset=9)
