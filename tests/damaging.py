"""Ways to damage a model, each steered by a source of small numbers.

`pick(n)` returns a number from 0 to n - 1; the same numbers do the same damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import onnx
from net import Net
from small_models import chain

Pick = Callable[[int], int]
T = TypeVar("T")

NUMBERS = (0, 1, -1, 2, 3, 5, 7, 16, 255, -(2**31), 2**31, 2**40, -(2**63), 2**63 - 1)
OPERATORS = (
    *("Add", "Mul", "Relu", "Conv", "ConvTranspose", "Gemm", "MatMul", "Flatten", "Transpose"),
    *("Reshape", "Concat", "Split", "Slice", "Gather", "Pad", "Softmax", "ReduceMean", "Resize"),
    *("BatchNormalization", "MaxPool", "Shape", "Constant", "Identity", "Expand", "LSTM", "If"),
)


def models() -> dict[str, onnx.ModelProto]:
    """Small models of a few kinds, by name."""
    return {"chain": chain(8, batch=2, size=6), "joined": _joined(), "dense": _dense()}


def _joined() -> onnx.ModelProto:
    """Make a residual sum, depthwise and grouped convolutions, a split, a concat, a reshape."""
    n = Net({"x": ("N", 3, 6, 6)})
    stem = n.block("x", 3, 8)
    side = n.block(n.conv(stem, 8, 8, group=8, bias=False), 8, 8, group=2)
    h = n.node("Add", stem, n.conv(side, 8, 8, 1))
    sizes = n.constant([4, 4])
    left, right = n.node("Split", h, sizes, outputs=2, axis=1)
    h = n.node("Concat", right, n.node("Sigmoid", left), axis=1)
    pads = n.constant([0, 0, 1, 1, 0, 0, 1, 1])
    h = n.node("MaxPool", n.node("Pad", h, pads), kernel_shape=[2, 2], strides=[2, 2])
    flat = n.node("Reshape", n.block(h, 8, 4, 1), n.constant([0, -1]))
    return n.model(n.gemm(flat, 4 * 4 * 4, 3))


def _dense() -> onnx.ModelProto:
    """Make matrix products with a normalisation across channels and computed shapes."""
    n = Net({"x": ("N", 6)})
    h = n.node("Relu", n.node("MatMul", "x", n.random(6, 12)))
    sizes = n.node("Concat", n.node("Shape", "x", end=1), n.constant([3, 4]), axis=0)
    h = n.node("Transpose", n.node("Reshape", h, sizes), perm=[0, 2, 1])
    h = n.node("Flatten", n.node("Slice", h, n.constant([0]), n.constant([3]), n.constant([1])))
    h = n.node("LayerNormalization", h, n.random(9), n.random(9))
    h = n.node("Gemm", h, n.random(7, 9), n.random(7), transB=1)
    best = n.node("ArgMax", h, axis=1, keepdims=0)
    scores = n.node("Softmax", n.gemm(n.node("Relu", n.gemm(h, 7, 6)), 6, 3))
    return n.model(scores, best)


def damage_bytes(data: bytes, pick: Pick) -> bytes:
    """Cut off, flip, drop, repeat or clear bytes of a file."""
    out = bytearray(data)
    start = pick(len(out))
    end = min(len(out), start + 1 + pick(16))
    kind = pick(6)
    if kind == 0:
        del out[start:]
    elif kind == 1:
        for _ in range(1 + pick(4)):
            out[pick(len(out))] ^= 1 << pick(8)
    elif kind == 2:
        out[start] = pick(256)
    elif kind == 3:
        del out[start:end]
    elif kind == 4:
        out[start:start] = out[start:end]
    else:
        out[start:end] = bytes(end - start)
    return bytes(out)


def damage_head(data: bytes, pick: Pick) -> bytes:
    """Flip bits where little but names, sizes and tags lies: in what is left without weights."""
    model = onnx.ModelProto.FromString(data)
    place = pick(len(model.graph.node) + len(model.graph.initializer))
    nodes = len(model.graph.node)
    part: Any = model.graph.node[place] if place < nodes else model.graph.initializer[place - nodes]
    raw = bytearray(part.SerializeToString())
    raw[pick(min(len(raw), 40))] ^= 1 << pick(8)
    return data.replace(part.SerializeToString(), bytes(raw), 1)


def damage_proto(model: onnx.ModelProto, pick: Pick) -> None:
    """Change one thing of a model that a file can hold."""
    kinds = [_nodes, _names, _tensors, _attributes, _ends, _operators, _lists]
    kinds[pick(len(kinds))](model, pick)


def _one(items: Sequence[T], pick: Pick) -> T:
    return items[pick(len(items))]


def _names_of(model: onnx.ModelProto) -> list[str]:
    """All names of tensors, and some of none."""
    graph = model.graph
    names = [n for node in graph.node for n in (*node.input, *node.output)]
    names += [t.name for t in (*graph.initializer, *graph.input, *graph.output)]
    return sorted({"", "nobody", *names})


def _nodes(model: onnx.ModelProto, pick: Pick) -> None:
    nodes = model.graph.node
    place, other, kind = pick(len(nodes)), pick(len(nodes)), pick(4)
    if kind == 0:
        del nodes[place]
    elif kind == 1:
        nodes.append(nodes[place])
    elif kind == 2:
        nodes[place].name = nodes[other].name
    else:
        a, b = onnx.NodeProto(), onnx.NodeProto()
        a.CopyFrom(nodes[place])
        b.CopyFrom(nodes[other])
        nodes[place].CopyFrom(b)
        nodes[other].CopyFrom(a)


def _names(model: onnx.ModelProto, pick: Pick) -> None:
    node = _one(model.graph.node, pick)
    side = _one([node.input, node.output], pick)
    name = _one(_names_of(model), pick)
    kind = pick(3)
    if kind == 0 or not side:
        side.append(name)
    elif kind == 1:
        del side[pick(len(side))]
    else:
        side[pick(len(side))] = name


def _tensors(model: onnx.ModelProto, pick: Pick) -> None:
    tensors = model.graph.initializer
    place, kind = pick(len(tensors)), pick(7)
    tensor = tensors[place]
    if kind == 0:
        del tensors[place]
    elif kind == 1:
        tensor.name = _one(_names_of(model), pick)
    elif kind == 2:
        tensor.data_type = pick(30)
    elif kind == 3 and tensor.dims:
        tensor.dims[pick(len(tensor.dims))] = _one(NUMBERS, pick)
    elif kind == 4:
        tensor.dims[:] = [_one(NUMBERS, pick) for _ in range(pick(4))]
    elif kind == 5:
        tensor.raw_data = tensor.raw_data[: pick(len(tensor.raw_data) + 1)]
    else:
        tensor.dims[:] = list(reversed(tensor.dims))


def _attributes(model: onnx.ModelProto, pick: Pick) -> None:
    node = _one([n for n in model.graph.node if n.attribute] or list(model.graph.node), pick)
    if not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("axis", _one(NUMBERS, pick)))
        return
    place, kind = pick(len(node.attribute)), pick(6)
    attribute = node.attribute[place]
    if kind == 0:
        del node.attribute[place]
    elif kind == 1:
        attribute.type = pick(15)
    elif kind == 2:
        attribute.name = _one(["axis", "group", "pads", "perm", "strides", "nothing"], pick)
    elif attribute.ints:
        if kind == 3:
            attribute.ints[pick(len(attribute.ints))] = _one(NUMBERS, pick)
        elif kind == 4:
            attribute.ints.append(_one(NUMBERS, pick))
        else:
            del attribute.ints[pick(len(attribute.ints))]
    else:
        attribute.i = _one(NUMBERS, pick)


def _ends(model: onnx.ModelProto, pick: Pick) -> None:
    ends = _one([model.graph.input, model.graph.output], pick)
    if not ends:
        return
    place, kind = pick(len(ends)), pick(7)
    kind_of = ends[place].type.tensor_type
    if kind == 0:
        del ends[place]
    elif kind == 1:
        ends[place].name = _one(_names_of(model), pick)
    elif kind == 2:
        kind_of.elem_type = pick(30)
    elif kind == 3 and kind_of.shape.dim:
        kind_of.shape.dim[pick(len(kind_of.shape.dim))].dim_value = _one(NUMBERS, pick)
    elif kind == 4:
        ends[place].ClearField("type")
    elif kind == 5:
        kind_of.shape.dim.add(dim_value=_one(NUMBERS, pick))
    else:
        ends.append(ends[place])


def _operators(model: onnx.ModelProto, pick: Pick) -> None:
    node, kind = _one(model.graph.node, pick), pick(6)
    if kind < 3:
        node.op_type = _one(OPERATORS, pick)
    elif kind == 3:
        node.domain = _one(["ai.onnx", "ai.onnx.ml", "com.microsoft", "nobody"], pick)
    elif kind == 4:
        model.opset_import[0].version = _one((*range(1, 25), *NUMBERS), pick)
    else:
        model.ir_version = _one((*range(1, 12), *NUMBERS), pick)


def _lists(model: onnx.ModelProto, pick: Pick) -> None:
    """Leave out or repeat what a model lists."""
    graph = model.graph
    fields = [graph.node, graph.initializer, graph.input, graph.output, model.opset_import]
    items: Any = _one(fields, pick)
    kind = pick(3)
    if kind == 0:
        del items[:]
    elif kind == 1 and items:
        items.append(items[pick(len(items))])
    else:
        graph.initializer.append(onnx.helper.make_tensor("", 1, [1], [0.0]))
