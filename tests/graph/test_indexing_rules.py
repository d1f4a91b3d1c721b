"""Entries picked or written at places that data tell; channels lie along other axes."""

import numpy as np
import pytest
from net import sandwich
from oracle import assert_slice_is_mask

ints = np.array


def _check(middle, groups=None, frozen=None, **options):
    groups = {"a": 8} if groups is None else groups
    return assert_slice_is_mask(sandwich(middle, **options), groups=groups, frozen=frozen)


def _places(net, count: int, size: int):
    """Indices that depend on the input, (count,)."""
    start = net("Cast", net("Mul", net("ReduceMax", "x", keepdims=0), np.float32(100)), to=7)
    return net("Mod", net("Add", start, ints([*range(count)])), ints(size))


def _beside(net, x, axis: int):
    """Indices as long as a tensor along all axes."""
    line = net("Reshape", _places(net, 6, 6), ints([6 if a == axis else 1 for a in range(4)]))
    return net("Expand", line, net("Shape", x))


@pytest.mark.parametrize("axis", [2, 3, -1])
def test_gather(axis):
    _check(lambda net, x: net("Gather", x, _places(net, 4, 6), axis=axis))


def test_gather_with_a_scalar():
    def middle(net, x):
        place = net("Squeeze", _places(net, 1, 6))
        return net("Unsqueeze", net("Gather", x, place, axis=2), ints([2]))

    _check(middle)


def test_gather_with_a_table_of_places():
    def middle(net, x):
        places = net("Reshape", _places(net, 4, 6), ints([2, 2]))
        return net("Reshape", net("Gather", x, places, axis=2), ints([0, 0, 4, 6]))

    _check(middle)


def test_indices_made_of_channels_stay():
    def middle(net, x):
        b = net.conv(x, 8, 4, name="b")
        best = net("ArgMax", net("ReduceMax", b, axes=[0, 2, 3], keepdims=0), axis=0)
        return net("Gather", x, best, axis=3)

    _check(middle, {"a": 8}, {"b": "across channels"})


@pytest.mark.parametrize("axis", [2, 3])
def test_gather_elements(axis):
    _check(lambda net, x: net("GatherElements", x, _beside(net, x, axis), axis=axis))


def test_gather_elements_of_channels_freezes():
    def middle(net, x):
        places = net("Reshape", _places(net, 8, 8), ints([1, 8, 1, 1]))
        return net("GatherElements", x, net("Expand", places, net("Shape", x)), axis=1)

    _check(middle, {}, {"a": "picks among channels by data"})


def test_gather_nd():
    def middle(net, x):
        y = net("Transpose", x, perm=[2, 3, 0, 1])
        places = net("Reshape", _places(net, 6, 6), ints([3, 2]))
        y = net("GatherND", y, places)
        return net("Reshape", net("Transpose", y, perm=[1, 2, 0]), ints([0, 0, 3, 1]))

    _check(middle)


def test_scatter_elements():
    def middle(net, x):
        where, new = _beside(net, x, 3), net("Neg", x)
        return net("ScatterElements", x, where, new, axis=3, reduction="add")

    _check(middle, opset=18)


def test_scatter_elements_into_zeros():
    def middle(net, x):
        zeros = net("Sub", x, x)
        return net("ScatterElements", zeros, _beside(net, x, 2), x, axis=2, reduction="add")

    _check(middle, opset=18)


def test_scatter_of_a_part_freezes():
    def middle(net, x):
        new = net("Slice", x, ints([0]), ints([1]), ints([1]))
        line = net("Reshape", _places(net, 6, 6), ints([1, 1, 1, 6]))
        where = net("Expand", line, net("Shape", new))
        return net("ScatterElements", x, where, new, axis=3, reduction="add")

    _check(middle, {}, {"a": "a part is left alone"}, opset=18)


def test_scatter_nd():
    def middle(net, x):
        y = net("Transpose", x, perm=[2, 0, 1, 3])
        where = net("Reshape", _places(net, 1, 6), ints([1, 1]))
        row = net("Slice", y, ints([0]), ints([1]), ints([0]))
        y = net("ScatterND", y, where, row, reduction="add")
        return net("Transpose", y, perm=[1, 2, 0, 3])

    _check(middle, opset=18)


def test_tokens_are_picked_by_their_score():
    """TopK of scores, then Gather: as where tokens are pruned at run time."""

    def middle(net, x):
        scores = net("ReduceMean", "x", axes=[0, 1, 3], keepdims=0)
        _, best = net("TopK", scores, ints([3]), outputs=2)
        return net("Gather", x, best, axis=2)

    _check(middle)


def test_top_k_across_channels_freezes():
    def middle(net, x):
        return net("TopK", x, ints([8]), axis=1, outputs=2)[0]

    _check(middle, {}, {"a": "picks among channels by data"})
