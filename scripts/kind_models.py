"""Small models of images and vectors, each around something that people bring."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from onnx import helper as oh
from small_graphs import BATCH, Graph, below

Build = Callable[..., str]  # adds nodes to a graph, and returns the output
C = 16  # channels
MICROSOFT = "com.microsoft"


def repeated(layer: Callable[[Graph], Callable[[str], str]]) -> Build:
    """Put the same thing behind the input, whose channels stay, and behind two convolutions."""

    @wraps(layer)
    def build(g: Graph) -> str:
        use = layer(g)
        y = use(g.images(C))
        for _ in range(2):
            y = use(g.conv(y, C, C))
        return g.conv(y, C, 4)

    return build


def between_convolutions(middle: Build) -> Build:
    """Put something between convolutions."""

    @wraps(middle)
    def build(g: Graph, **given: Any) -> str:
        y = middle(g, g.conv(g.images(), 3, C), **given)
        return g.conv(g.block(y, C, C), C, 4)

    return build


def between_dense_layers(middle: Build) -> Build:
    """Put something between dense layers of vectors."""

    @wraps(middle)
    def build(g: Graph) -> str:
        x = g("Relu", g.dense(g.input("x", BATCH, 12), 12, 2 * C))
        return g.dense(g("Relu", middle(g, x)), 2 * C, 4)

    return build


@repeated
def instance_norm(g: Graph) -> Callable[[str], str]:
    scale, shift = g.scale(C), g.shift(C)
    return lambda x: g("Relu", g("InstanceNormalization", x, scale, shift))


@repeated
def batch_norm(g: Graph) -> Callable[[str], str]:
    parameters = g.scale(C), g.shift(C), g.shift(C), g.scale(C)
    return lambda x: g("Relu", g("BatchNormalization", x, *parameters))


@repeated
def vector(g: Graph) -> Callable[[str], str]:
    shift = g.shift(C, 1, 1)
    return lambda x: g("Relu", g("Add", x, shift))


@repeated
def slope(g: Graph) -> Callable[[str], str]:
    values = g.scale(C, 1, 1)
    return lambda x: g("PRelu", x, values)


def siamese(g: Graph) -> str:
    """Two images through the same layers."""
    weights = g.weight(C, 3, 3, 3), g.weight(C, C, 3, 3)
    dense = g.weight(C, 8, fan=C)
    ends = []
    for name in "ab":
        y = g.input(name, BATCH, 3, 8, 8)
        for weight in weights:
            y = g("Relu", g("Conv", y, weight, pads=[1] * 4))
        ends.append(g("MatMul", g("Flatten", g("GlobalAveragePool", y)), dense))
    return str(g("Sub", *ends))


def again(g: Graph) -> str:
    """One layer, twice in a row."""
    weight, y = g.weight(C, C, 3, 3), g.block(g.images(), 3, C)
    for _ in range(2):
        y = g("Relu", g("Conv", y, weight, pads=[1] * 4))
    return g.conv(y, C, 4)


@between_convolutions
def group_norm(g: Graph, x: str) -> str:
    y = g("GroupNormalization", x, g.scale(C), g.shift(C), num_groups=4)
    return str(g("Relu", y))


@between_convolutions
def swish(g: Graph, x: str) -> str:
    return str(g("Swish", x))


@between_convolutions
def gelu(g: Graph, x: str) -> str:
    return str(g("Gelu", x))


@between_convolutions
def mean_variance(g: Graph, x: str) -> str:
    return str(g("MeanVarianceNormalization", x, axes=[2, 3]))


@between_convolutions
def layer_norm(g: Graph, x: str, op: str) -> str:
    """Normalise along the channels, which lie last."""
    y = g("Transpose", x, perm=[0, 2, 3, 1])
    more = [g.shift(C)] if op == "LayerNormalization" else []
    y = g(op, y, g.scale(C), *more, axis=-1)
    y = g("Relu", g.dense(y, C, 2 * C))
    return str(g("Transpose", g.dense(y, 2 * C, C), perm=[0, 3, 1, 2]))


def of_heads(g: Graph, op: str) -> str:
    """Attention of queries, keys and values that were projected; rotated or normalised before."""
    x = g.input("x", BATCH, 10, C)
    q, k, v = (g.dense(x, C, 2 * C) for _ in range(3))
    if op == "Attention":
        y = g("Attention", q, k, v, q_num_heads=4, kv_num_heads=4)
    elif op == "MultiHeadAttention":
        y = g(op, q, k, v, num_heads=4, domain=MICROSOFT)
    else:
        q, k, v = (split(g, t) for t in (q, k, v))
        q, k = (rotated(g, t) if op == "RotaryEmbedding" else normalised(g, t) for t in (q, k))
        y = g("Softmax", g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        y = g("Transpose", g("MatMul", y, v), perm=[0, 2, 1, 3])
        y = g("Reshape", y, np.array([0, 10, 2 * C]))
    return g.dense(y, 2 * C, 4)


def split(g: Graph, x: str) -> str:
    return str(g("Transpose", g("Reshape", x, np.array([0, 10, 4, C // 2])), perm=[0, 2, 1, 3]))


def rotated(g: Graph, x: str) -> str:
    places = np.arange(10)[:, None] / 10.0 ** np.arange(C // 4)
    tables = g.const(np.cos(places)), g.const(np.sin(places))
    where = g(
        "Expand", np.arange(10)[None], g("Concat", g("Shape", x, end=1), np.array([10]), axis=0)
    )
    return str(g("RotaryEmbedding", x, *tables, where))


def normalised(g: Graph, x: str) -> str:
    return str(g("RMSNormalization", x, g.scale(C // 2), axis=-1))


@between_convolutions
def function(g: Graph, x: str) -> str:
    """Call a function of the model's own twice."""
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        oh.make_node("Relu", ["c"], ["y"]),
    ]
    sets = [oh.make_opsetid("", g.opset)]
    g.functions.append(oh.make_function("own", "Block", ["x", "w"], ["y"], nodes, sets))
    for _ in range(2):
        x = g("Block", x, g.weight(C, C, 3, 3), domain="own")
    return x


@between_convolutions
def fused_conv(g: Graph, x: str) -> str:
    given: dict[str, Any] = {"pads": [1] * 4, "activation": "Relu", "domain": MICROSOFT}
    return str(g("FusedConv", x, g.weight(C, C, 3, 3), g.shift(C), **given))


@between_dense_layers
def fused_gemm(g: Graph, x: str) -> str:
    weight = g.weight(2 * C, 2 * C)
    given: dict[str, Any] = {"transB": 1, "activation": "Relu", "domain": MICROSOFT}
    return str(g("FusedGemm", x, weight, g.shift(2 * C), **given))


@between_dense_layers
def fused_matmul(g: Graph, x: str) -> str:
    return str(g("FusedMatMul", x, g.weight(2 * C, 2 * C), transB=1, alpha=0.5, domain=MICROSOFT))


@between_dense_layers
def bias_gelu(g: Graph, x: str) -> str:
    y = g("MatMul", x, g.weight(2 * C, 2 * C))
    return str(g("BiasGelu", y, g.shift(2 * C), domain=MICROSOFT))


@between_convolutions
def scalars(g: Graph, x: str) -> str:
    """Numbers without a shape, given and computed."""
    size = g("Cast", g("ReduceProd", g("Shape", x, start=2), keepdims=0), to=1)
    return str(g("Add", g("Div", x, g("Sqrt", size)), np.array(0.1)))


def skip_layer_norm(g: Graph) -> str:
    x = g.dense(g.input("x", BATCH, 10, 12), 12, C)
    for _ in range(2):
        inner = g.dense(g("Relu", g.dense(x, C, 2 * C)), 2 * C, C)
        x = g("SkipLayerNormalization", x, inner, g.scale(C), g.shift(C), domain=MICROSOFT)
    return g.dense(x, C, 4)


def fused_attention(g: Graph) -> str:
    """Make queries, keys and values by one weight, and attend under a mask."""
    x, mask = g.input("x", BATCH, 10, C), g.input("mask", BATCH, 10, draw=below(2))
    weight, mask = g.weight(C, 6 * C, fan=C), g("Cast", mask, to=6)
    given: dict[str, Any] = {"num_heads": 4, "qkv_hidden_sizes": [2 * C] * 3, "domain": MICROSOFT}
    return g.dense(g("Attention", x, weight, g.shift(6 * C), mask, **given), 2 * C, 4)


def encoder(g: Graph) -> str:
    """Stack blocks of a transformer, as onnxruntime's optimizer fuses them."""
    x = g.dense(g.input("x", BATCH, 10, 12), 12, C)
    for _ in range(2):
        q, k, v = (g.dense(x, C, 2 * C) for _ in range(3))
        y = g.dense(g("MultiHeadAttention", q, k, v, num_heads=4, domain=MICROSOFT), 2 * C, C)
        x = g("SkipLayerNormalization", x, y, g.scale(C), g.shift(C), domain=MICROSOFT)
        y = g("FusedMatMul", x, g.weight(2 * C, C), transB=1, domain=MICROSOFT)
        y = g.dense(g("BiasGelu", y, g.shift(2 * C), domain=MICROSOFT), 2 * C, C)
        x = g("SkipLayerNormalization", x, y, g.scale(C), g.shift(C), domain=MICROSOFT)
    return g.dense(x, C, 4)


def plain(g: Graph) -> str:
    """Convolutions, one of them depthwise, and a shortcut."""
    h = g.block(g.images(), 3, C)
    h = g("Relu", g("Add", h, g.conv(g.block(h, C, C), C, C)))
    h = g("Relu", g("Conv", h, g.weight(C, 1, 3, 3), g.shift(C), group=C, pads=[1] * 4))
    weight = g.weight(C, 8, fan=C)
    return str(g("Gemm", g("Flatten", g("GlobalAveragePool", h)), weight, g.shift(8)))


def typed(g: Graph, build: Build, kind: int) -> str:
    """Make the same in another type."""
    g.dtype = np.dtype(oh.tensor_dtype_to_np_dtype(kind))
    return build(g)
