"""Products of two activations: attention, and what else multiplies channels with channels."""

import numpy as np
import pytest
from net import Net, sandwich
from oracle import assert_slice_is_mask


def test_matmul_of_two_activations_freezes_what_is_summed():
    """Attention scores sum over the channels of queries and keys."""

    def middle(net, x):
        q, k, v = (
            net("Reshape", net.conv(x, 8, 6, 1, name=name), np.array([0, 6, 36])) for name in "qkv"
        )
        scores = net("MatMul", net("Transpose", q, perm=[0, 2, 1]), k)
        mixed = net("MatMul", v, net("Softmax", scores, axis=-1))
        return net("Reshape", mixed, np.array([0, 6, 6, 6]))

    frozen = {"q": "two activations", "k": "two activations"}
    assert_slice_is_mask(sandwich(middle, out=6), groups={"a": 8, "v": 6}, frozen=frozen)


@pytest.mark.parametrize("fused", [True, False])
def test_gated_hidden_layer(fused):
    """SwiGLU: one half of the hidden neurons gates the other."""

    def middle(net, x):
        x = net("Transpose", x, perm=[0, 2, 3, 1])
        if fused:
            x = net("Add", net("MatMul", x, net.weight(8, 12), name="up"), net.weight(12))
            gate, value = net("Split", x, outputs=2, axis=-1)
        else:
            gate = net("MatMul", x, net.weight(8, 6), name="up")
            value = net("MatMul", x, net.weight(8, 6), name="side")
        y = net("Mul", net("Mul", gate, net("Sigmoid", gate)), value)
        y = net("MatMul", y, net.weight(6, 5), name="down")
        return net("Transpose", y, perm=[0, 3, 1, 2])

    opset = 17 if not fused else 11
    studied = assert_slice_is_mask(
        sandwich(middle, out=5, opset=opset), groups={"a": 8, "up": 6, "down": 5}
    )
    assert studied.groups[1].producers == (("up",) if fused else ("up", "side"))


def _attention(net, x, product, *, heads=4, depth=3, bias=None, fused=True):
    """Self-attention over the positions of an image, channels in front."""
    shape = np.array([0, heads, depth, -1])
    if fused:
        x = net.conv(x, 8, 3 * heads * depth, 1, name="qkv")
        x = net("Reshape", x, np.array([0, 3, heads, depth, -1]))
        q, k, v = (net("Gather", x, np.array(i), axis=1) for i in range(3))
    else:
        q, k, v = (
            net("Reshape", net.conv(x, 8, heads * depth, 1, name=name), shape)
            for name in ("q", "k", "v")
        )
    if product == "MatMul":
        scores = net("MatMul", net("Transpose", q, perm=[0, 1, 3, 2]), k)
    else:
        scores = net("Einsum", q, k, equation="bhci,bhcj->bhij")
    scores = net("Mul", scores, np.float32(0.5))
    scores = net("Softmax", scores if bias is None else net("Add", scores, bias), axis=-1)
    if product == "MatMul":
        mixed = net("MatMul", v, net("Transpose", scores, perm=[0, 1, 3, 2]))
    else:
        mixed = net("Einsum", scores, v, equation="b h i j, bhcj -> bhci")
    return net("Reshape", mixed, np.array([0, heads * depth, 6, 6]))


@pytest.mark.parametrize("product", ["MatMul", "Einsum"])
@pytest.mark.parametrize("fused", [True, False])
def test_heads_of_attention_go_as_one(product, fused):
    """Queries, keys and values of a head, and the bias of its scores."""

    def middle(net, x):
        return _attention(net, x, product, fused=fused, bias=net.weight(4, 36, 36))

    first = "qkv" if fused else "q"
    studied = assert_slice_is_mask(sandwich(middle, out=12), groups={"a": 8, first: 4})
    assert studied.groups[1].producers == (("qkv",) if fused else ("q", "k", "v"))
    cut = studied.cut(studied.groups[1].units[:1]).graph
    (name,) = (node.input[1] for node in cut.node if node.name == first)
    (weight,) = (t for t in cut.initializer if t.name == name)
    assert weight.dims[0] == (27 if fused else 9)


@pytest.mark.parametrize("shared", [1, 2])
def test_heads_of_a_transformer(shared):
    """Tokens in front, a mask that is an input, keys and values for `shared` heads of queries."""
    net = Net({"x": ("N", 5, 6), "mask": ("N", 5)})
    x = net("MatMul", "x", net.weight(6, 8), name="a")
    mask = net("Unsqueeze", "mask", np.array([1, 2]))
    q, k, v = (
        net("Reshape", net("MatMul", x, net.weight(8, 3 * heads), name=name), np.array(shape))
        for name, heads in (("q", 4), ("k", 4 // shared), ("v", 4 // shared))
        if (shape := [0, 0, heads, 3])
    )
    q, v = (net("Transpose", y, perm=[0, 2, 1, 3]) for y in (q, v))
    k = net("Transpose", k, perm=[0, 2, 3, 1])
    if shared > 1:  # each head of keys and of values twice
        k, v = (
            net(
                "Reshape",
                net("Expand", net("Unsqueeze", y, np.array([2])), np.array([1, 1, shared, 1, 1])),
                np.array([0, 4, *size]),
            )
            for y, size in ((k, (3, 5)), (v, (5, 3)))
        )
    scores = net("Softmax", net("Add", net("MatMul", q, k), mask), axis=-1)
    y = net("Transpose", net("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = net("Reshape", y, np.array([0, 0, 12]))
    studied = assert_slice_is_mask(
        net.model(net("Add", net("MatMul", y, net.weight(12, 6), name="z"), "x")),
        groups={"a": 8, "q": 4 // shared},
    )
    assert studied.groups[1].producers == ("q", "k", "v")


def test_heads_whose_scores_are_scaled_by_their_depth():
    """1 / sqrt(depth), with the depth read off the queries' shape, which keeps it."""

    def middle(net, x):
        q = net("Reshape", net.conv(x, 8, 12, 1, name="q"), np.array([0, 4, 3, -1]))
        depth = net("Cast", net("Gather", net("Shape", q), np.array(2)), to=1)
        q = net("Div", q, net("Sqrt", depth))
        scores = net("MatMul", net("Transpose", q, perm=[0, 1, 3, 2]), q)
        y = net("MatMul", q, net("Softmax", scores, axis=-1))
        return net("Reshape", y, np.array([0, 12, 6, 6]))

    assert_slice_is_mask(sandwich(middle, out=12), groups={"a": 8, "q": 4})


def test_heads_whose_scores_are_scaled_by_their_number():
    def middle(net, x):
        q = net("Reshape", net.conv(x, 8, 12, 1, name="q"), np.array([0, 4, 3, -1]))
        heads = net("Cast", net("Gather", net("Shape", q), np.array(1)), to=1)
        scores = net("MatMul", net("Transpose", q, perm=[0, 1, 3, 2]), q)
        y = net("MatMul", q, net("Softmax", net("Div", scores, heads), axis=-1))
        return net("Reshape", y, np.array([0, 12, 6, 6]))

    frozen = {"q": "their number enters the computation at Div"}
    assert_slice_is_mask(sandwich(middle, out=12), groups={"a": 8}, frozen=frozen)


@pytest.mark.parametrize(
    ("equation", "why"),
    [
        ("nchw,nchw->nhw", "two activations"),
        ("...chw,...chw->...chw", "of this form"),
        ("nchw,nccw->nchw", "of this form"),
        ("nchw,ncij,nckw->nciw", "of this form"),
    ],
)
def test_einsum_of_another_form_freezes(equation, why):
    """Channels that are summed; dots; a letter that is there twice; three terms."""

    def middle(net, x):
        terms = [net.conv(x, 6, 6, 1, name=name) for name in "bcd"[: equation.count(",") + 1]]
        y = net("Einsum", *terms, equation=equation)
        return net("Unsqueeze", y, np.array([1])) if "->nhw" in equation else y

    out = 1 if "->nhw" in equation else 6
    proto = sandwich(middle, channels=6, out=out)
    assert_slice_is_mask(proto, groups={"a": 6}, frozen={"b": why, "c": why})


def test_einsum_with_a_constant_freezes():
    def middle(net, x):
        return net("Einsum", x, net.weight(8, 6), equation="nchw,co->nohw")

    assert_slice_is_mask(sandwich(middle, out=6), groups={}, frozen={"a": "of this form"})


def test_einsum_of_blocks_of_one_channel():
    """Channels that meet and are not summed go together."""

    def middle(net, x):
        return net("Einsum", x, net.conv(x, 8, 8, 1, name="b"), equation="nchw,nciw->nhci")

    proto = sandwich(lambda net, x: net("Transpose", middle(net, x), perm=[0, 2, 1, 3]))
    assert_slice_is_mask(proto, groups={"a": 8})


@pytest.mark.parametrize("shape", [(0, 1, 3, -1), (0, 4, 3, -1)])
def test_heads_that_share_keys_and_frozen_heads_stay(shape):
    """One key for four heads of queries repeats it; keys that are an input are frozen."""
    net = Net({"x": ("N", 12, 6, 6)})
    y = net.conv("x", 12, 12, name="a")
    q = net("Reshape", y, np.array([0, 4, 3, -1]))
    keys = net("Slice", "x", np.array([0]), np.array([3]), np.array([1])) if shape[1] == 1 else "x"
    scores = net(
        "MatMul", net("Transpose", q, perm=[0, 1, 3, 2]), net("Reshape", keys, np.array(shape))
    )
    frozen = {"a": "MatMul"}
    assert_slice_is_mask(
        net.model(net("ReduceMean", scores, axes=[1])), groups={}, frozen=frozen, felt=False
    )


def test_einsum_passes_channels_that_are_not_summed():
    """Positions are weighted by a map: channels are columns."""

    def middle(net, x):
        scores = net("Softmax", net.conv(x, 8, 1, 1, name="s"), axis=-1)
        return net("Einsum", scores, x, equation="nohw,nchw->nco")

    assert_slice_is_mask(
        sandwich(lambda net, x: net("Unsqueeze", middle(net, x), np.array([3]))),
        groups={"a": 8},
        frozen={"s": ""},
    )
