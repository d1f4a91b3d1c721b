"""Attention and RotaryEmbedding: heads go as one, in every form of the node."""

import numpy as np
import onnx
import pytest
from net import Net
from oracle import assert_slice_is_mask

HEADS, SIZE, LENGTH = 4, 3, 5
WIDTH = HEADS * SIZE


def attending(
    heads: int = HEADS,
    *,
    apart: bool = False,
    mask: np.ndarray | None = None,
    values: int = SIZE,
    **attributes: object,
) -> onnx.ModelProto:
    """Three dense layers, Attention and a dense layer; keys and values have `heads` heads.

    With `apart` the node is given heads along an axis of their own.
    """
    n, x = Net({"x": ("N", LENGTH, 6)}, opset=23), "x"
    sizes = (HEADS * SIZE, heads * SIZE, heads * values)
    sides = [
        n("MatMul", x, n.weight(6, size), name=name)
        for name, size in zip("qkv", sizes, strict=True)
    ]
    if apart:
        split = [
            n("Reshape", y, np.array([0, LENGTH, h, -1]))
            for y, h in zip(sides, (HEADS, heads, heads), strict=True)
        ]
        sides = [n("Transpose", y, perm=[0, 2, 1, 3]) for y in split]
    else:
        attributes |= {"q_num_heads": HEADS, "kv_num_heads": heads}
    y = n("Attention", *sides, *([] if mask is None else [mask]), name="attention", **attributes)
    if apart:
        y = n("Reshape", n("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, LENGTH, -1]))
    return n.model(n("MatMul", y, n.weight(HEADS * values, 5), name="z"), check=False)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("heads", [4, 2])
def test_heads_are_units(heads: int, apart: bool) -> None:
    assert_slice_is_mask(attending(heads, apart=apart), groups={"q": heads})


@pytest.mark.parametrize("more", [{"is_causal": 1}, {"scale": 0.3}, {"values": 2}])
def test_forms_of_attention(more: dict) -> None:
    assert_slice_is_mask(attending(**more), groups={"q": HEADS})


def test_heads_are_counted() -> None:
    studied = assert_slice_is_mask(attending(2), groups={"q": 2})
    cut = studied.cut(studied.groups[0].units[:1])
    (node,) = (node for node in cut.graph.node if node.op_type == "Attention")
    counts = {a.name: a.i for a in node.attribute}
    assert counts == {"q_num_heads": 2, "kv_num_heads": 1}


def test_a_mask_for_all_heads() -> None:
    mask = np.random.default_rng(0).standard_normal((LENGTH, LENGTH)).astype(np.float32)
    assert_slice_is_mask(attending(mask=mask), groups={"q": HEADS})


def test_a_mask_for_every_head_freezes() -> None:
    mask = np.zeros((1, HEADS, LENGTH, LENGTH), np.float32)
    frozen = dict.fromkeys("qkv", "a mask for every head")
    assert_slice_is_mask(attending(mask=mask), groups={}, frozen=frozen)


def test_products_count() -> None:
    macs = attended = LENGTH * LENGTH * WIDTH
    macs += attended + LENGTH * (3 * 6 * WIDTH + WIDTH * 5)
    studied = assert_slice_is_mask(attending(), groups={"q": HEADS})
    assert studied.macs.at(studied.widths) == macs


@pytest.mark.parametrize("apart", [False, True])
def test_rotary_embedding(apart: bool) -> None:
    n, x = Net({"x": ("N", LENGTH, 6)}, opset=23), "x"
    y = n("MatMul", x, n.weight(6, HEADS * 4), name="a")
    angles = [
        f(np.arange(LENGTH * 2.0).reshape(1, LENGTH, 2)).astype(np.float32)
        for f in (np.cos, np.sin)
    ]
    angles = [
        n(
            "Expand",
            n("Identity", a),
            n("Concat", n("Shape", x, end=1), np.array([LENGTH, 2]), axis=0),
        )
        for a in angles
    ]
    if apart:
        y = n("Transpose", n("Reshape", y, np.array([0, LENGTH, HEADS, 4])), perm=[0, 2, 1, 3])
        y = n("RotaryEmbedding", y, *angles)
        y = n("Reshape", n("Transpose", y, perm=[0, 2, 1, 3]), np.array([0, LENGTH, -1]))
    else:
        y = n("RotaryEmbedding", y, *angles, num_heads=HEADS)
    model = n.model(n("MatMul", y, n.weight(HEADS * 4, 5), name="z"), check=False)
    assert_slice_is_mask(model, groups={"a": HEADS}, check=False)
