"""Convolutions and dense layers."""

import numpy as np
import pytest
from net import Net, sandwich
from oracle import assert_slice_is_mask


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": 2},
        {"dilations": 2, "pads": 2},
        {"pads": 0},
        {"auto_pad": "SAME_UPPER", "strides": 2},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_conv(rank, attributes):
    def middle(net, x):
        more = {k: v if isinstance(v, str) else [v] * rank for k, v in attributes.items()}
        if "pads" in more:
            more["pads"] *= 2
        elif "auto_pad" in more:
            return net("Conv", x, net.weight(6, 8, *[3] * rank), name="b", **more)
        return net.conv(x, 8, 6, rank=rank, name="b", **more)

    proto = sandwich(middle, out=6, size=(7,) * rank)
    assert_slice_is_mask(proto, groups={"a": 8, "b": 6})


def test_conv_without_bias():
    proto = sandwich(lambda net, x: net("Conv", x, net.weight(6, 8, 1, 1), name="b"), out=6)
    assert_slice_is_mask(proto, groups={"a": 8, "b": 6})


@pytest.mark.parametrize("group", [2, 4])
def test_grouped_conv(group):
    """Both sides keep equally many channels in every group."""

    def middle(net, x):
        return net("Relu", net.conv(net("Relu", x), 8, 12, group=group, name="b"))

    studied = assert_slice_is_mask(sandwich(middle, out=12), groups={"a": 8, "b": 12})
    assert [g.parts for g in studied.groups] == [
        tuple(np.repeat(range(group), 8 // group)),
        tuple(np.repeat(range(group), 12 // group)),
    ]


def test_two_grouped_convs_of_different_division():
    """Groups of 4 inside of groups of 2: one partition serves both."""

    def middle(net, x):
        x = net.conv(x, 8, 8, group=2, name="b")
        return net.conv(x, 8, 8, group=4, name="c")

    studied = assert_slice_is_mask(sandwich(middle), groups={"a": 8, "b": 8, "c": 8})
    assert [g.step for g in studied.groups] == [2, 4, 4]


def test_grouped_convs_that_divide_differently():
    """Thirds and halves of 12 channels: units are sets of three, one from each third."""

    def middle(net, x):
        x = net.conv(x, 8, 12, name="b")
        return net(
            "Add", net.conv(x, 12, 12, group=3, name="c"), net.conv(x, 12, 12, group=2, name="d")
        )

    studied = assert_slice_is_mask(sandwich(middle, out=12), groups={"a": 8, "b": 4, "c": 4})
    assert [group.step for group in studied.groups] == [1, 2, 2]


def test_grouped_conv_of_branches_that_fill_a_group_each():
    def middle(net, x):
        x = net("Concat", x, net.conv(x, 8, 8, name="b"), axis=1)
        return net.conv(x, 16, 8, group=2, name="c")

    studied = assert_slice_is_mask(sandwich(middle), groups={"a": 16, "c": 8})
    assert studied.groups[0].producers == ("a", "b")


def test_grouped_conv_of_branches_that_share_a_group():
    """Six channels of one branch, two and four of another: pairs, one from each group."""

    def middle(net, x):
        x = net("Concat", x, net.conv(x, 8, 4, name="b"), axis=1)
        return net.conv(x, 12, 8, group=2, name="c")

    studied = assert_slice_is_mask(sandwich(middle), groups={"a": 2, "a#2": 4, "c": 8})
    assert [group.producers for group in studied.groups] == [("a",), ("a", "b"), ("c",)]


def test_grouped_convs_over_a_branch_and_its_source():
    """As in ShuffleNet: sets by the halves of what is joined fit the halves of each, too."""

    def middle(net, x):
        x = net.conv(x, 8, 4, name="b")
        x = net("Concat", x, net.conv(x, 4, 8, group=2, name="c"), axis=1)
        return net.conv(x, 12, 8, group=2, name="d")

    studied = assert_slice_is_mask(sandwich(middle), groups={"a": 8, "b": 4, "c": 2, "d": 8})
    assert [group.producers for group in studied.groups] == [("a",), ("b", "c"), ("c",), ("d",)]
    assert [group.step for group in studied.groups] == [1, 2, 1, 2]


def test_grouped_conv_that_straddles_units():
    """Units of 3 channels in groups of 10: what lies in two groups stays, and what is over."""

    def middle(net, x):
        x = net("Reshape", net.conv(x, 8, 30, 1, name="b"), np.array([0, 3, 10, 6, 6]))
        x = net("Reshape", net("Transpose", x, perm=[0, 2, 1, 3, 4]), np.array([0, 30, 6, 6]))
        return net.conv(x, 30, 9, 1, group=3, name="c")

    frozen = {"b": "its 3 groups could not keep equally many"}
    studied = assert_slice_is_mask(
        sandwich(middle, out=9), groups={"a": 8, "b": 6, "c": 9}, frozen=frozen
    )
    assert [group.step for group in studied.groups] == [1, 3, 3]


def test_depthwise():
    proto = sandwich(lambda net, x: net.conv(x, 8, 8, group=8, name="dw"))
    assert_slice_is_mask(proto, groups={"a": 8})


def test_depth_multiplier():
    """The three outputs of a channel go with it."""
    proto = sandwich(lambda net, x: net.conv(x, 8, 24, group=8, name="dw"), out=24)
    assert_slice_is_mask(proto, groups={"a": 8})


def test_one_channel_conv_is_not_depthwise():
    net = Net({"x": ("N", 1, 6, 6)})
    y = net.conv(net.conv("x", 1, 8, name="a"), 8, 1, name="b")
    studied = assert_slice_is_mask(
        net.model(net.conv(net.conv(y, 1, 4, name="c"), 4, 2, name="z")),
        groups={"a": 8, "c": 4},
        frozen={"b": "nothing"},
    )
    assert not any(linear.depthwise for linear in studied.flow.linears)


def test_everything_but_one_channel_can_go():
    proto = sandwich(lambda net, x: net.conv(x, 8, 8, group=8, name="dw"))
    studied = assert_slice_is_mask(proto, groups={"a": 8}, ratio=0.9)
    assert studied.macs.at([1]) * 7 < studied.macs.at([8])


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": 2},
        {"strides": 2, "output_padding": 1},
        {"dilations": 2},
        {"strides": 2, "pads": 1},
        {"strides": 2, "output_shape": 13},
        {"strides": 2, "auto_pad": "SAME_UPPER"},
    ],
    ids=str,
)
def test_conv_transpose(rank, attributes):
    def middle(net, x):
        more = {k: v if isinstance(v, str) else [v] * rank for k, v in attributes.items()}
        if "pads" in more:
            more["pads"] *= 2
        return net(
            "ConvTranspose", x, net.weight(8, 6, *[3] * rank), net.weight(6), name="b", **more
        )

    assert_slice_is_mask(sandwich(middle, out=6, size=(6,) * rank), groups={"a": 8, "b": 6})


def test_grouped_conv_transpose():
    def middle(net, x):
        weight = net.weight(8, 3, 3, 3)
        return net("ConvTranspose", x, weight, net.weight(6), name="b", group=2, strides=[2, 2])

    studied = assert_slice_is_mask(sandwich(middle, out=6), groups={"a": 8, "b": 6})
    assert [g.step for g in studied.groups] == [2, 2]


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_conv_transpose(multiplier):
    def middle(net, x):
        weight, bias = net.weight(8, multiplier, 2, 2), net.weight(8 * multiplier)
        return net("ConvTranspose", x, weight, bias, name="b", group=8, strides=[2, 2])

    assert_slice_is_mask(sandwich(middle, out=8 * multiplier), groups={"a": 8})


BIASES = {
    "none": None,
    "vector": (6,),
    "row": (1, 6),
    "scalar": (),
    "one": (1,),
    "one by one": (1, 1),
}


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", BIASES)
def test_gemm(trans_b, bias):
    def middle(net, x):
        x = net("Flatten", net("GlobalAveragePool", x))
        inputs = [net.weight(6, 8) if trans_b else net.weight(8, 6)]
        inputs += [] if BIASES[bias] is None else [net.weight(*BIASES[bias])]
        return net("Gemm", x, *inputs, name="b", transB=trans_b, alpha=0.5, beta=2.0)

    assert_slice_is_mask(sandwich(middle, out=6, head="gemm"), groups={"a": 8, "b": 6})


def test_gemm_with_a_bias_per_sample():
    def middle(net, x):
        x = net("Flatten", net("GlobalAveragePool", x))
        return net("Gemm", x, net.weight(8, 6), net.weight(2, 6), name="b")

    proto = sandwich(middle, out=6, head="gemm", batch=2)
    assert_slice_is_mask(proto, groups={"a": 8, "b": 6})


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_that_transposes_its_input_freezes(trans_b):
    def middle(net, x):
        x = net("Transpose", net("Flatten", net("GlobalAveragePool", x)), perm=[1, 0])
        weight = net.weight(6, 8) if trans_b else net.weight(8, 6)
        return net("Gemm", x, weight, name="b", transA=1, transB=trans_b)

    proto = sandwich(middle, out=6, head="gemm")
    assert_slice_is_mask(proto, groups={}, frozen={"a": "transposes its input"})


def test_gemm_with_constant_left():
    def middle(net, x):
        x = net("Flatten", net("GlobalAveragePool", x))
        return net("Gemm", net.weight(7, 8), x, name="b", transB=1)

    proto = sandwich(middle, head=None)
    assert_slice_is_mask(proto, groups={}, frozen={"a": "computed weight"})


def test_matmul():
    def middle(net, x):
        x = net("Flatten", net("GlobalAveragePool", x))
        return net("Add", net("MatMul", x, net.weight(8, 6), name="b"), net.weight(6))

    assert_slice_is_mask(sandwich(middle, out=6, head="gemm"), groups={"a": 8, "b": 6})


def test_matmul_over_the_last_of_four_axes():
    """A NHWC island: per-position dense layers."""

    def middle(net, x):
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        x = net("Add", net("MatMul", x, net.weight(8, 6), name="b"), net.weight(6))
        return net("Transpose", net("Relu", x), perm=[0, 3, 1, 2])

    assert_slice_is_mask(sandwich(middle, out=6), groups={"a": 8, "b": 6})


def test_matmul_between_positions_lets_channels_pass():
    """Token mixing: channels lie along another axis than the one that is summed."""

    def middle(net, x):
        x = net("Reshape", x, np.array([0, 8, 36]))
        x = net("Reshape", net("MatMul", x, net.weight(36, 36)), np.array([0, 8, 6, 6]))
        return net("Relu", x)

    assert_slice_is_mask(sandwich(middle), groups={"a": 8})


def test_matmul_with_a_left_constant_lets_channels_pass():
    def middle(net, x):
        x = net("Transpose", net("Reshape", x, np.array([0, 8, 36])), perm=[0, 2, 1])
        x = net("MatMul", net.weight(36, 36), x)
        return net("Reshape", net("Transpose", x, perm=[0, 2, 1]), np.array([0, 8, 6, 6]))

    assert_slice_is_mask(sandwich(middle), groups={"a": 8})


def test_matmul_with_a_left_constant_over_channels_freezes():
    def middle(net, x):
        x = net("Reshape", x, np.array([0, 8, 36]))
        return net("Reshape", net("MatMul", net.weight(8, 8), x), np.array([0, 8, 6, 6]))

    proto = sandwich(middle)
    assert_slice_is_mask(proto, groups={}, frozen={"a": "MatMul with a constant of this form"})


def test_matmul_with_stacked_constants_freezes():
    def middle(net, x):
        return net("MatMul", x, net.weight(8, 6, 6))

    assert_slice_is_mask(sandwich(middle), groups={}, frozen={"a": "of this form"})


def test_matmul_with_a_vector():
    def middle(net, x):
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        return net("Unsqueeze", net("MatMul", x, net.weight(8)), np.array([1]))

    assert_slice_is_mask(sandwich(middle, out=1), groups={}, frozen={"a": "of this form"})


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_computed_weights_freeze_both_sides(op):
    """A weight that depends on the input: neither its maker nor its reader may shrink."""

    def middle(net, x):
        if op == "Conv":
            weight = net.conv(x, 8, 4, name="w")  # read as one kernel; the batch is 1
            weight = net(
                "Reshape",
                net("Slice", weight, *map(np.array, ([0, 0], [2, 1], [2, 3]))),
                np.array([1, 8, 1, 1]),
            )
            return net("Conv", x, weight)
        x = net("Flatten", net("GlobalAveragePool", x))
        return net("Gemm", x, net("Gemm", x, net.weight(8, 8), name="w"), transB=1)

    proto = sandwich(middle, out=1, head="conv" if op == "Conv" else None, batch=1)
    frozen = {"a": f"{op} ", "w": f"{op} "}
    assert_slice_is_mask(proto, groups={}, frozen=frozen)


@pytest.mark.parametrize("index", [1, 2])
def test_computed_bias_freezes(index):
    """A conv whose bias comes from another branch."""

    def middle(net, x):
        side = net(
            "Reshape",
            net("ReduceMean", net.conv(x, 8, 6, name="s"), axes=[0, 2, 3]),
            np.array([-1]),
        )
        inputs = [net.weight(6, 8, 1, 1), net.weight(6)]
        inputs[index - 1] = (
            side
            if index == 2
            else net("Mul", net("Reshape", side, np.array([6, 1, 1, 1])), inputs[0])
        )
        return net("Conv", x, *inputs, name="b")

    proto = sandwich(middle, out=6)
    assert_slice_is_mask(proto, groups={}, frozen={"s": "Conv", "a": ""}, felt=False)


def _folded_into_batch(op):
    """A filter over single channels, which lie along the batch axis for it."""

    def middle(net, x):
        x = net("Reshape", x, np.array([16, 1, 6, 6]))
        x = net(op, x, net.weight(1, 1, 3, 3), name="blur", pads=[1, 1, 1, 1])
        return net("Reshape", x, np.array([2, 8, 6, 6]))

    return sandwich(middle, batch=2)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_channels_in_the_batch_of_a_conv_freeze(op):
    frozen = {"a": f"{op} neither mixes nor passes"}
    assert_slice_is_mask(_folded_into_batch(op), groups={}, frozen=frozen)


def test_channels_in_the_batch_of_a_pool_pass():
    def middle(net, x):
        x = net("Reshape", x, np.array([16, 1, 6, 6]))
        x = net("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return net("Reshape", x, np.array([2, 8, 6, 6]))

    assert_slice_is_mask(sandwich(middle, batch=2), groups={"a": 8})


def test_channels_in_the_rows_of_a_gemm_pass():
    def middle(net, x):
        x = net("Reshape", x, np.array([8, 36]))
        x = net("Gemm", x, net.weight(36, 36), net.weight(36), name="rows")
        return net("Reshape", x, np.array([1, 8, 6, 6]))

    assert_slice_is_mask(sandwich(middle, batch=1), groups={"a": 8})
