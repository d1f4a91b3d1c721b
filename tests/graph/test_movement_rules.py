"""Data movement, which is executed on the labels, and the corrections of its numbers."""

import numpy as np
import pytest
from net import Net, sandwich
from oracle import assert_slice_is_mask, choose, study

ints = np.array


def floats(*values):
    return np.array(values, np.float32)


def _check(middle, groups=None, frozen=None, **options):
    groups = {"a": 8} if groups is None else groups
    return assert_slice_is_mask(sandwich(middle, **options), groups=groups, frozen=frozen)


def _axes(net, op, x, axes):
    return net(op, x, ints(axes)) if net.opset >= 13 else net(op, x, axes=axes)


# Concat and Split.


def test_dense_block():
    def middle(net, x):
        for name in "bc":
            width = 8 if name == "b" else 14
            x = net("Concat", x, net("Relu", net.conv(x, width, 6, name=name)), axis=1)
        return x

    _check(middle, {"a": 8, "b": 6, "c": 6}, out=20)


def test_concat_of_a_tensor_with_itself():
    _check(lambda net, x: net("Concat", x, net("Neg", x), x, axis=-3), out=24)


def test_concat_with_the_input_and_a_constant():
    """Coordinates and image channels stay where they are."""

    def middle(net, x):
        return net("Concat", net.weight(2, 2, 6, 6), x, "x", axis=1)

    _check(middle, out=13, batch=2)


def test_concat_along_space_ties_the_parts():
    def middle(net, x):
        return net("Concat", x, net.conv(x, 8, 8, name="b"), axis=2)

    assert _check(middle).groups[0].producers == ("a", "b")


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("lengths", [[4, 4], [2, 6], [1, 3, 4]])
def test_split(opset, lengths):
    """Only the first part is convolved; each part is a group."""

    def middle(net, x):
        if opset < 13:
            first, *others = net("Split", x, axis=1, split=lengths, outputs=len(lengths))
        else:
            first, *others = net("Split", x, ints(lengths), axis=1, outputs=len(lengths))
        return net("Concat", net.conv(first, lengths[0], 4, name="b"), *others, axis=1)

    out = sum(lengths[1:]) + 4
    parts = {"a" if not i else f"a#{i + 1}": n for i, n in enumerate(n for n in lengths if n > 1)}
    frozen = {"a": "nothing of a tensor"} if 1 in lengths else None
    _check(middle, {**parts, "b": 4}, frozen, out=out, opset=opset)


@pytest.mark.parametrize(("opset", "more"), [(11, {}), (13, {}), (18, {"num_outputs": 2})])
def test_split_into_equal_parts(opset, more):
    def middle(net, x):
        first, second = net("Split", x, axis=1, outputs=2, **more)
        return net("Mul", net("Sigmoid", first), second)  # a gated linear unit

    studied = _check(middle, {"a": 4}, out=4, opset=opset)
    assert studied.groups[0].producers == ("a",)


def test_split_into_a_short_last_part():
    def middle(net, x):
        return net("Concat", *net("Split", x, axis=1, outputs=3, num_outputs=3)[::2], axis=1)

    _check(middle, {"a": 3, "a#2": 3, "a#3": 2}, out=5, opset=18)


def test_split_along_space():
    _check(lambda n, x: n("Add", *n("Split", x, ints([3, 3]), axis=2, outputs=2)))


def test_split_with_computed_lengths():
    def middle(net, x):
        half = net("Div", net("Slice", net("Shape", x), ints([1]), ints([2])), ints([2]))
        first, second = net("Split", x, net("Concat", half, half, axis=0), axis=1, outputs=2)
        return net("Concat", second, net.conv(first, 4, 4, name="b"), axis=1)

    _check(middle, {"a": 4, "a#2": 4, "b": 4})


def test_c2f():
    def middle(net, x):
        first, second = net("Split", x, ints([4, 4]), axis=1, outputs=2)
        inner = net("Add", second, net.conv(net.conv(second, 4, 6, name="b"), 6, 4, name="c"))
        return net("Concat", first, second, inner, axis=1)

    _check(middle, {"a": 4, "a#2": 4, "b": 6}, out=12)


# Slice, Gather, Pad.


def _slice(net, x, starts, ends, axes=None, steps=None):
    if net.opset < 10:
        return net("Slice", x, starts=starts, ends=ends, **({"axes": axes} if axes else {}))
    extra = [] if axes is None else [ints(axes)]
    extra += [] if steps is None else [ints(steps)]
    return net("Slice", x, ints(starts), ints(ends), *extra)


@pytest.mark.parametrize("opset", [9, 11, 13])
@pytest.mark.parametrize("bounds", [(0, 4), (3, 8), (2, 6), (-5, -1), (4, 2**31 - 1)])
def test_slice(opset, bounds):
    start, end = bounds

    def middle(net, x):
        return net.conv(_slice(net, x, [start], [end], [1]), width, 6, name="b")

    width = len(range(8)[start:end])
    groups = {"a": width, "b": 6} if width == 8 else None
    studied = study(sandwich(middle, out=6, opset=opset))
    groups = {group.name: group.width for group in studied.groups}
    assert groups["b"] == 6
    assert sum(groups.values()) == 14
    _check(middle, groups, out=6, opset=opset)


def test_slice_of_several_axes():
    _check(lambda n, x: _slice(n, x, [1, 0, 2], [-1, 6, 8], [2, 3, 1]), {"a": 2, "a#2": 6}, out=6)


@pytest.mark.parametrize("steps", [2, 3, -1, -2])
def test_slice_with_steps_needs_indices(steps):
    """Interleaving: no bounds express what is left."""
    start, end = (0, 8) if steps > 0 else (-1, -(2**31))

    def middle(net, x):
        return net("Concat", _slice(net, x, [start], [end], [1], [steps]), x, axis=1)

    width = len(range(8)[:: abs(steps)])
    groups = {"a": width, "a#2": 8 - width} if width < 8 else {"a": 8}
    out = 8 + width
    if steps < 0 and width < 8:
        groups = {"a": 4, "a#2": 4}
    _check(middle, groups, out=out)


def test_slice_without_axes():
    _check(lambda n, x: _slice(n, x, [0, 2], [2, 6]), {"a": 4, "a#2": 4}, out=4, batch=2)


def test_two_halves_of_a_slice_are_tied():
    def middle(net, x):
        return net("Add", _slice(net, x, [0], [4], [1]), _slice(net, x, [4], [8], [1]))

    _check(middle, {"a": 4}, out=4)


@pytest.mark.parametrize("divisor", [2, 4])
def test_slice_with_bounds_computed_from_shapes(divisor):
    def middle(net, x):
        part = net("Div", net("Gather", net("Shape", x), ints([1])), ints([divisor]))
        head = net("Slice", x, ints([0]), part, ints([1]))
        tail = net("Slice", x, part, ints([2**31 - 1]), ints([1]))
        return net("Concat", tail, net("Neg", head), axis=1)

    _check(middle, {"a": 8 // divisor, "a#2": 8 - 8 // divisor})


def test_slice_with_bounds_that_depend_on_data_freezes():
    def middle(net, x):
        end = net(
            "Reshape",
            net("Cast", net("Add", net("ReduceSum", net("Relu", "x")), floats(3)), to=7),
            ints([1]),
        )
        return net(
            "Slice", x, ints([0]), net("Max", net("Min", end, ints([8])), ints([8])), ints([1])
        )

    _check(middle, {}, {"a": "depend on data"})


def test_focus():
    """Space to depth by strided slices."""

    def middle(net, x):
        corners = [_slice(net, x, [i, j], [6, 6], [2, 3], [2, 2]) for i in (0, 1) for j in (0, 1)]
        return net("Concat", *corners, axis=1)

    _check(middle, out=32)


@pytest.mark.parametrize(
    ("indices", "groups"),
    [
        ([3, 1, 0, 2, 7, 6, 5, 4], {"a": 8}),
        ([0, 0, 1, 1, 2, 3], {"a": 2, "a#2": 2, "a#3": 4}),
        ([-1, -2, 0], {"a": 3, "a#2": 5}),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], {"a": 4}),
        ([[0, 4], [1, 5], [2, 6], [3, 7]], {"a": 4}),
    ],
    ids=str,
)
def test_gather(indices, groups):
    indices = ints(indices)

    def middle(net, x):
        y = net("Gather", x, indices, axis=1)
        return y if indices.ndim == 1 else net("Reshape", y, ints([0, indices.size, 6, 6]))

    _check(middle, groups, out=indices.size)


def test_gather_of_one_channel_keeps_it():
    def middle(net, x):
        one = net("Unsqueeze", net("Gather", x, ints(3), axis=1), ints([1]))
        return net("Concat", x, one, axis=1)

    _check(middle, {"a": 7}, {"a": "nothing of a tensor"}, out=9)


def test_gather_along_space():
    _check(lambda net, x: net("Gather", x, ints([5, 0, 0]), axis=3))


def test_gather_of_channels_by_the_input_freezes():
    def middle(net, x):
        where = net("Cast", net("ReduceMax", net("Sigmoid", "x"), axes=[0, 2, 3], keepdims=0), to=7)
        return net("Gather", x, where, axis=1)

    _check(middle, {}, {"a": "picks among channels by data"}, out=3)


@pytest.mark.parametrize("opset", [9, 11, 18])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_of_space(opset, mode):
    def middle(net, x):
        amounts = [0, 0, 1, 2, 0, 0, 2, 0]
        return (
            net("Pad", x, ints(amounts), mode=mode)
            if opset > 9
            else net("Pad", x, pads=amounts, mode=mode)
        )

    _check(middle, opset=opset)


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 1]])
def test_pad_of_some_axes(axes):
    amounts = ints([1, 0, 2, 1]) if 1 not in axes else ints([1, 2, 0, 2])
    groups = {"a": 8} if 1 not in axes else {"pad": 4, "a": 8}

    def middle(net, x):
        return net("Pad", x, amounts, "", ints(axes), name="pad")

    _check(middle, groups, opset=18, out=8 if 1 not in axes else 12)


@pytest.mark.parametrize("opset", [9, 13])
def test_option_a_shortcut(opset):
    """Subsample space, append empty channels; both ends may shrink."""

    def middle(net, x):
        y = net.conv(net.conv(x, 8, 6, name="b"), 6, 12, strides=[2, 2], name="c")
        if opset == 9:
            short = net("MaxPool", x, kernel_shape=[1, 1], strides=[2, 2])
            short = net("Pad", short, pads=[0, 2, 0, 0, 0, 2, 0, 0], name="pad")
        else:
            short = _slice(net, x, [0, 0], [6, 6], [2, 3], [2, 2])
            short = net(
                "Pad", short, ints([0, 2, 0, 0, 0, 2, 0, 0]), floats(0.5).reshape(()), name="pad"
            )
        return net("Relu", net("Add", y, short))

    studied = _check(middle, {"a": 8, "b": 6, "c": 4}, out=12, opset=opset)
    assert studied.groups[2].producers == ("c", "pad")


def test_pad_that_reflects_channels_freezes():
    def middle(net, x):
        return net("Pad", x, ints([0, 1, 0, 0, 0, 1, 0, 0]), mode="reflect")

    _check(middle, {}, {"a": "Pad along channels (reflect mode)"}, out=10)


def test_pad_that_cuts_channels_off_freezes():
    def middle(net, x):
        return net("Pad", x, ints([0, -2, 0, 0, 0, 0, 0, 0]))

    _check(middle, {}, {"a": "cut channels off"}, out=6)


# Reshape and its relatives.


@pytest.mark.parametrize("shape", [[0, -1], [-1, 288], [2, 288]], ids=str)
def test_flatten_by_reshape_before_a_dense_layer(shape):
    batch = 2 if 2 in shape else "N"
    _check(lambda net, x: net("Reshape", x, ints(shape)), out=288, head="gemm", batch=batch)


def test_flatten():
    _check(lambda net, x: net("Flatten", x), out=288, head="gemm")


def test_flatten_of_a_nhwc_tensor():
    """The channels of a position lie side by side."""

    def middle(net, x):
        return net("Flatten", net("Transpose", x, perm=[0, 2, 3, 1]))

    _check(middle, out=288, head="gemm")


def test_flatten_into_the_batch():
    def middle(net, x):
        x = net("Reshape", x, ints([-1, 36]))
        return net("Reshape", net("Relu", x), ints([-1, 8, 6, 6]))

    _check(middle)


def test_products_of_matrices_for_every_channel_of_every_sample():
    def middle(net, x):
        x = net("Reshape", x, ints([-1, 6, 6]))
        y = net("Softmax", net("MatMul", x, net("Transpose", x, perm=[0, 2, 1])), axis=-1)
        return net("Reshape", net("MatMul", y, x), ints([-1, 8, 6, 6]))

    _check(middle)


def test_places_along_samples_and_channels_freeze():
    """Without a fixed batch, no graph says which places would be left."""

    def middle(net, x):
        x = net("Reshape", x, ints([-1, 6, 6]))
        x = net("Slice", x, ints([0]), ints([2**31 - 1]), ints([0]))
        return net("Reshape", x, ints([-1, 8, 6, 6]))

    _check(middle, {}, {"a": "depends on the batch"})


def test_flatten_into_a_fixed_batch():
    def middle(net, x):
        x = net("Reshape", x, ints([16, 36]))
        return net("Reshape", net("Relu", x), ints([2, 8, 6, 6]))

    _check(middle, batch=2)


SHUFFLES = {
    "constant": lambda net, x: ints([0, 2, 4, 6, 6]),
    "minus one": lambda net, x: ints([0, 2, -1, 6, 6]),
    "zeros": lambda net, x: ints([-1, 2, 4, 6, 6]),
}


@pytest.mark.parametrize("first", SHUFFLES)
@pytest.mark.parametrize("second", [[0, 8, 6, 6], [0, -1, 6, 6], [-1, 8, 6, 6]], ids=str)
def test_channel_shuffle(first, second):
    """A unit is one channel of each group."""

    def middle(net, x):
        x = net("Reshape", x, SHUFFLES[first](net, x))
        x = net("Transpose", x, perm=[0, 2, 1, 3, 4])
        return net("Relu", net("Reshape", x, ints(second)))

    _check(middle, {"a": 4})


def test_channel_shuffle_between_grouped_convs():
    def middle(net, x):
        x = net.conv(x, 8, 12, 1, group=2, name="b")
        x = net("Transpose", net("Reshape", x, ints([0, 2, 6, 6, 6])), perm=[0, 2, 1, 3, 4])
        return net.conv(net("Reshape", x, ints([0, 12, 6, 6])), 12, 8, 1, group=2, name="c")

    _check(middle, {"a": 8, "b": 6, "c": 8})


def test_channel_shuffle_computed_from_shapes():
    """Shape, Gather, Concat; one variant with a hard-coded channel count."""

    def middle(net, x):
        batch, count, height, width = (
            net("Unsqueeze", net("Gather", net("Shape", x), ints(i)), ints([0])) for i in range(4)
        )
        share = net("Div", count, ints([2]))
        shape = net("Concat", batch, ints([2]), share, height, width, axis=0)
        x = net("Transpose", net("Reshape", x, shape), perm=[0, 2, 1, 3, 4])
        return net("Reshape", x, net("Concat", batch, ints([8]), height, width, axis=0))

    _check(middle, {"a": 4})


def test_reshape_with_hard_coded_sizes_in_a_computed_shape():
    def middle(net, x):
        batch = net("Slice", net("Shape", x), ints([0]), ints([1]))
        return net("Reshape", x, net("Concat", batch, ints([288]), axis=0))

    _check(middle, out=288, head="gemm")


def test_reshape_of_a_copied_size():
    """The 0 copies the cut axis into a place where it is not the cut axis of the output."""

    def middle(net, x):
        x = net("Reshape", x, ints([0, 0, 36]))
        return net("Reshape", x, ints([0, 0, 6, 6]))

    _check(middle)


def test_reshape_where_zero_is_zero():
    def middle(net, x):
        x = net("Reshape", x, ints([2, 8, 36]), allowzero=1)
        return net("Reshape", x, ints([2, -1, 6, 6]), allowzero=1)

    _check(middle, batch=2, opset=17)


def test_transpose_by_default_and_back():
    _check(lambda net, x: net("Transpose", net("Relu", net("Transpose", x))))


def test_nhwc_island():
    def middle(net, x):
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        x = net("Add", net("Mul", x, net.weight(8)), net.weight(1, 1, 1, 8))
        return net("Transpose", x, perm=[0, 3, 1, 2])

    _check(middle)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset):
    def middle(net, x):
        x = _axes(net, "Squeeze", net("GlobalAveragePool", x), [2, -1])
        return _axes(net, "Unsqueeze", x, [2, 3])

    _check(middle, opset=opset)


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_without_axes_where_channels_become_one(opset):
    """Cut down to a single channel, that axis must not vanish with the others."""

    def middle(net, x):
        return net("Squeeze", net("GlobalAveragePool", x))

    proto = sandwich(middle, opset=opset, head="gemm", batch=2)
    assert_slice_is_mask(proto, groups={"a": 8}, ratio=0.99)


def test_expand():
    def middle(net, x):
        return net("Expand", net("GlobalAveragePool", x), ints([1, 8, 4, 4]))

    _check(middle)


def test_expand_to_the_shape_of_another():
    def middle(net, x):
        return net("Add", net("Expand", net("GlobalAveragePool", x), net("Shape", x)), x)

    _check(middle)


def test_expand_with_hard_coded_channels():
    def middle(net, x):
        batch = net("Slice", net("Shape", x), ints([0]), ints([1]))
        return net(
            "Expand", net("GlobalAveragePool", x), net("Concat", batch, ints([8, 4, 4]), axis=0)
        )

    _check(middle)


def test_expand_of_a_single_channel_freezes():
    def middle(net, x):
        return net("Expand", net.conv(x, 8, 1, name="b"), ints([1, 6, 1, 1]))

    _check(middle, {"a": 8, "channels": 6}, {"b": "repeats a single channel"}, out=6)


def test_copies_of_a_single_channel_go_with_what_they_meet():
    def middle(net, x):
        one = net.conv(x, 8, 1, name="b")
        return net("Mul", x, net("Expand", one, net("Shape", x)))

    _check(middle, {"a": 8}, {"b": "repeats a single channel"})


@pytest.mark.parametrize("repeats", [[1, 1, 2, 3], [1, 2, 1, 1], [1, 3, 2, 1]], ids=str)
def test_tile(repeats):
    _check(lambda net, x: net("Tile", x, ints(repeats)), out=8 * repeats[1])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    """Four channels make one; they go together."""
    _check(lambda net, x: net("DepthToSpace", x, blocksize=2, mode=mode), {"a": 2}, out=2)


def test_space_to_depth():
    _check(lambda net, x: net("SpaceToDepth", x, blocksize=2), out=32)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_columns_that_depth_to_space_makes_are_no_channels(mode):
    """What reads along the width could do without every other column, the block size could not."""

    def middle(net, x):
        return net("MatMul", net("DepthToSpace", x, blocksize=2, mode=mode), net.weight(12, 7))

    _check(middle, {"a": 2}, out=2)


def _columns_to_depth(end):
    """A layer along the width, eight columns wide, whose output goes to depth."""
    net = Net({"x": ("N", 3, 6, 6)})
    x = net("MatMul", "x", net.weight(6, 8), name="b")
    return net.model(end(net, net("SpaceToDepth", x, blocksize=2)))


def test_columns_go_to_depth_in_blocks():
    proto = _columns_to_depth(lambda net, x: net("MatMul", x, net.weight(4, 5)))
    assert_slice_is_mask(proto, groups={"b": 4})


def test_columns_that_become_channels_stay():
    proto = _columns_to_depth(lambda net, x: net.conv(x, 12, 5, 1, name="z"))
    assert_slice_is_mask(
        proto, groups={}, frozen={"b": "nothing of a tensor", "z": "output"}, felt=False
    )


def test_pixel_shuffle_by_hand():
    def middle(net, x):
        x = net("Reshape", x, ints([0, 2, 2, 2, 6, 6]))
        x = net("Transpose", x, perm=[0, 1, 4, 2, 5, 3])
        return net("Reshape", x, ints([0, 2, 12, 12]))

    _check(middle, {"a": 2}, out=2)


def test_cast_and_back():
    _check(lambda net, x: net("Cast", net("Cast", x, to=11), to=1))


def test_cast_like():
    def middle(net, x):
        return net("CastLike", net("Cast", x, to=11), net.conv(x, 8, 4, name="b"))

    _check(middle, {"a": 8, "b": 4})


def test_pruning_twice():
    """Names of nodes that the first cut put in are taken in the second."""

    def middle(net, x):
        part = net("Div", net("Gather", net("Shape", x), ints([1])), ints([2]))
        head = net("Slice", x, ints([0]), part, ints([1]))
        even = net("Slice", x, ints([0]), ints([8]), ints([1]), ints([2]))
        normal = net("LRN", x, size=3)
        return net("Concat", head, even, net.conv(normal, 8, 8, name="n"), axis=1)

    net = Net({"x": ("N", 3, 6, 6)})
    y = net(
        "Concat",
        net.conv("x", 3, 8, name="a"),
        middle(net, net.conv("x", 3, 8, name="b")),
        axis=1,
    )
    studied = study(net.model(net.conv(y, 24, 5, name="z")))
    once = studied.cut(choose(studied.groups, 0.3, seed=1))
    again = study(once)
    removed = choose(again.groups, 0.3, seed=2)
    assert removed
    assert_slice_is_mask(once, groups={g.name: g.width for g in again.groups}, ratio=0.3)
