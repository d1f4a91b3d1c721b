"""Gradients of layers, towards their inputs and towards their weights.

The gradient of a convolution towards its input is a convolution with the mirrored kernel, or a
transposed one where there are strides. The gradient towards a weight is, tap by tap, the product of
what the tap saw with the gradient at the output; with groups it is a convolution in which samples
and channels change places.
"""

import math
from collections.abc import Mapping

import onnx

from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.gradient import EVERY, Gradient
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Tape


def conv(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Conv towards its input, weight or bias."""
    layer = tape.layers[node.output[0]]
    rank = len(layer.kernel)
    if place == 2:
        return tape.total(dy, [0, *range(2, rank + 2)], keep=False)
    if place == 1:
        of_weight = _conv_weight if layer.group == 1 else _grouped_weight
        return of_weight(tape, layer, node, dy)
    padding = [
        d * (k - 1) - pad
        for d, k, pad in zip(layer.dilations * 2, layer.kernel * 2, layer.pads, strict=True)
    ]
    if set(layer.strides) != {1} or min(padding) < 0:
        return _transposed(tape, layer, node, dy)
    return tape.op(
        "Conv",
        dy,
        _mirrored(tape, layer, node),
        dilations=layer.dilations,
        group=layer.group,
        kernel_shape=layer.kernel,
        pads=padding,
    )


def conv_transpose(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a ConvTranspose towards its input."""
    layer = tape.layers[node.output[0]]
    return tape.op("Conv", dy, node.input[1], **_geometry(layer))


def gemm(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a Gemm whose input isn't transposed."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    alpha, transposed = given.get("alpha", 1.0), given.get("transB", 0)
    if place == 2:
        summed = tape.total(dy, [0], keep=False)
        return tape.op("Mul", summed, tape.floats(given.get("beta", 1.0)))
    if place == 0:
        return tape.op("Gemm", dy, node.input[1], alpha=alpha, transB=1 - transposed)
    sides = (dy, node.input[0]) if transposed else (node.input[0], dy)
    return tape.op("Gemm", *sides, alpha=alpha, transA=1)


def matmul(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    """Gradient of a MatMul with a constant matrix on the right, or of any other."""
    if node.output[0] not in tape.layers:
        return _product(tape, node, dy, place)
    if place == 0:
        return tape.op("MatMul", dy, tape.op("Transpose", node.input[1], perm=[1, 0]))
    last = len(tape.shapes[node.input[0]]) - 1
    rows = [tape.op("Flatten", tensor, axis=last) for tensor in (node.input[0], dy)]
    return tape.op("Gemm", *rows, transA=1)


def has_matrices(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether both operands of a MatMul are matrices, or stacks of them."""
    return all(len(shapes.get(name, ())) >= 2 for name in node.input)


def _product(tape: Tape, node: onnx.NodeProto, dy: str, place: int) -> str:
    other = node.input[1 - place]
    rank = len(tape.shapes[other])
    turned = tape.op("Transpose", other, perm=[*range(rank - 2), rank - 1, rank - 2])
    sides = (turned, dy) if place else (dy, turned)
    product = tape.op("MatMul", *sides)
    return tape.folded(product, node.output[0], node.input[place], matrices=True)


def _geometry(layer: Linear) -> dict[str, object]:
    return {
        "strides": layer.strides,
        "dilations": layer.dilations,
        "pads": layer.pads,
        "group": layer.group,
        "kernel_shape": layer.kernel,
    }


def _transposed(tape: Tape, layer: Linear, node: onnx.NodeProto, dy: str) -> str:
    rank = len(layer.kernel)
    sizes, results = tape.shapes[layer.x][2:], tape.shapes[layer.y][2:]
    unseen = [
        size - (stride * (result - 1) + dilation * (kernel - 1) + 1 - begin - end)
        for size, stride, result, dilation, kernel, begin, end in zip(
            sizes,
            layer.strides,
            results,
            layer.dilations,
            layer.kernel,
            layer.pads[:rank],
            layer.pads[rank:],
            strict=True,
        )
    ]
    return tape.op("ConvTranspose", dy, node.input[1], output_padding=unseen, **_geometry(layer))


def _mirrored(tape: Tape, layer: Linear, node: onnx.NodeProto) -> str:
    """Turn a weight (M, C / groups, taps) into that of the mirrored map, (C, M / groups, taps)."""
    weight, kernel = node.input[1], list(layer.kernel)
    spatial = range(2, len(kernel) + 2)
    if math.prod(kernel) > 1:
        weight = tape.op(
            "Slice",
            weight,
            tape.ints([-1] * len(kernel)),
            tape.ints([-(2**31)] * len(kernel)),
            tape.ints([*spatial]),
            tape.ints([-1] * len(kernel)),
        )
    if layer.depthwise and _multiplier_is_one(tape, layer):
        result: str = weight
        return result
    if layer.group == 1:
        return tape.op("Transpose", weight, perm=[1, 0, *spatial])
    # (M, C / g, ...) -> (g, M / g, C / g, ...) -> (g, C / g, M / g, ...) -> (C, M / g, ...)
    inside = tape.op("Slice", tape.op("Shape", weight), tape.ints([1]), tape.ints([2**31]))
    apart = tape.op("Concat", tape.ints([layer.group, -1]), inside, axis=0)
    swapped = tape.op(
        "Transpose",
        tape.op("Reshape", weight, apart),
        perm=[0, 2, 1, *(axis + 1 for axis in spatial)],
    )
    rest = tape.op("Slice", tape.op("Shape", swapped), tape.ints([2]), tape.ints([2**31]))
    return tape.op("Reshape", swapped, tape.op("Concat", tape.ints([-1]), rest, axis=0))


def _multiplier_is_one(tape: Tape, layer: Linear) -> bool:
    return tape.shapes[layer.x][1] == tape.shapes[layer.y][1]


def _conv_weight(tape: Tape, layer: Linear, node: onnx.NodeProto, dy: str) -> str:
    rank = len(layer.kernel)
    swap = {"perm": [1, 0, *range(2, rank + 2)]}
    flat = tape.ints([0, -1])
    rows = tape.op("Reshape", tape.op("Transpose", dy, **swap), flat)
    seen = tape.op("Transpose", _padded(tape, layer, node.input[0]), **swap)
    taps = []
    for index in range(math.prod(layer.kernel)):
        tap = tape.op("Reshape", _tap(tape, layer, seen, index), flat)
        product = tape.op("Gemm", rows, tap, transB=1)
        taps.append(tape.op("Reshape", product, tape.ints([0, 0, 1])))
    together = taps[0] if len(taps) == 1 else tape.op("Concat", *taps, axis=2)
    return tape.op("Reshape", together, tape.ints([0, 0, *layer.kernel]))


def _padded(tape: Tape, layer: Linear, x: str) -> str:
    if not any(layer.pads):
        return x
    rank = len(layer.kernel)
    pads = [0, 0, *layer.pads[:rank], 0, 0, *layer.pads[rank:]]
    return tape.op("Pad", x, tape.ints(pads))


def _tap(tape: Tape, layer: Linear, padded: str, index: int) -> str:
    """Take what one tap of the kernel saw at every output position."""
    if math.prod(layer.kernel) == 1 and set(layer.strides) == {1}:
        return padded
    starts: list[int] = []
    ends: list[int] = []
    sizes = tape.shapes[layer.y][2:]
    for kernel, stride, dilation, size in reversed(
        list(zip(layer.kernel, layer.strides, layer.dilations, sizes, strict=True))
    ):
        starts.insert(0, index % kernel * dilation)
        ends.insert(0, starts[0] + stride * (size - 1) + 1)
        index //= kernel
    axes = range(2, len(sizes) + 2)
    vectors = (starts, ends, axes, layer.strides)
    return tape.op("Slice", padded, *(tape.ints([*v]) for v in vectors))


def _grouped_weight(tape: Tape, layer: Linear, node: onnx.NodeProto, dy: str) -> str:
    rank = len(layer.kernel)
    spatial = list(range(2, rank + 2))
    swap = {"perm": [1, 0, *spatial]}
    # (N, C, ...) -> (N, g, C / g, ...) -> (C / g, g, N, ...) -> (C / g, g * N, ...)
    x = node.input[0]
    sizes = tape.shapes[x][2:]
    if layer.depthwise:
        blocks = tape.op("Reshape", tape.op("Transpose", x, **swap), tape.ints([1, -1, *sizes]))
    else:
        apart = tape.op("Reshape", x, tape.ints([0, layer.group, -1, *sizes]))
        swapped = tape.op("Transpose", apart, perm=[2, 1, 0, *(axis + 1 for axis in spatial)])
        blocks = tape.op("Reshape", swapped, tape.ints([0, -1, *sizes]))
    found = tape.op(
        "Conv",
        blocks,
        tape.op("Transpose", dy, **swap),
        strides=layer.dilations,
        dilations=layer.strides,
        pads=layer.pads,
        group=layer.group,
    )
    # Strides leave room for taps that the kernel does not have.
    own = tape.op(
        "Slice", found, tape.ints([0] * rank), tape.ints([*layer.kernel]), tape.ints(spatial)
    )
    return tape.op("Transpose", own, **swap)


LAYERS: Mapping[str, Gradient] = {
    "Conv": Gradient(conv, frozenset({0, 1, 2}), layer=True),
    "ConvTranspose": Gradient(conv_transpose, layer=True),
    "Gemm": Gradient(gemm, frozenset({0, 1, 2}), layer=True),
    "MatMul": Gradient(matmul, EVERY, fits=has_matrices),
}
