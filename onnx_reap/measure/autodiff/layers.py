"""Gradients of layers, towards their inputs and towards their weights.

The gradient of a convolution towards its input is a convolution with the mirrored kernel, or a
transposed one where there are strides. The gradient towards a weight is, tap by tap, the product of
what the tap saw with the gradient at the output.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.gradient import EVERY, Gradient, Step
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes


def conv(at: Step) -> Value:
    """Gradient of a Conv towards its input, weight or bias."""
    layer = at.tape.layers[at.y.name]
    if at.place == 2:
        return at.dy.sum([0, *_spatial(layer)], keep=False)
    if at.place == 1:
        return _conv_weight(at, layer)
    reach = np.multiply(layer.dilations, np.subtract(layer.kernel, 1))
    padding = np.tile(reach, 2) - layer.pads
    if set(layer.strides) != {1} or padding.min() < 0:
        return _transposed(at, layer)
    geometry = _geometry(layer) | {"pads": padding.tolist()}
    return at.dy.op("Conv", _mirrored(at, layer), **geometry)


def conv_transpose(at: Step) -> Value:
    """Gradient of a ConvTranspose towards its input."""
    return at.dy.op("Conv", at.input(1), **_geometry(at.tape.layers[at.y.name]))


def gemm(at: Step) -> Value:
    """Gradient of a Gemm whose input isn't transposed."""
    alpha, transposed = at.get("alpha", 1.0), at.get("transB", 0)
    if at.place == 2:
        return at.dy.sum([0], keep=False) * at.get("beta", 1.0)
    if at.place == 0:
        return at.dy.op("Gemm", at.input(1), alpha=alpha, transB=1 - transposed)
    sides = (at.dy, at.x) if transposed else (at.x, at.dy)
    return at.tape.op("Gemm", *sides, alpha=alpha, transA=1)


def matmul(at: Step) -> Value:
    """Gradient of a MatMul with a constant matrix on the right, or of any other."""
    if at.y.name not in at.tape.layers:
        return _product(at)
    if at.place == 0:
        return at.dy.op("MatMul", at.input(1).transpose([1, 0]))
    rows = [tensor.op("Flatten", axis=at.rank - 1) for tensor in (at.x, at.dy)]
    return at.tape.op("Gemm", *rows, transA=1)


def _product(at: Step) -> Value:
    other = at.input(1 - at.place)
    rank = len(other.shape)
    turned = other.transpose([*range(rank - 2), rank - 1, rank - 2])
    sides = (turned, at.dy) if at.place else (at.dy, turned)
    return at.folded(at.tape.op("MatMul", *sides), matrices=True)


def einsum(at: Step) -> Value:
    """Gradient of an Einsum: one more, of what else it reads and the gradient at its result."""
    terms, result = _terms(at.node)
    others = [place for place in range(len(terms)) if place != at.place]
    equation = ",".join([result, *(terms[place] for place in others)]) + f"->{terms[at.place]}"
    return at.dy.op("Einsum", *map(at.input, others), equation=equation)


def sums_products(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether `einsum` covers a node: every index is told, and runs along equal axes."""
    equation = attributes(node)["equation"]
    if "->" not in equation or "." in equation:
        return False
    terms, result = _terms(node)
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        if len(set(term)) < len(term) or len(shapes.get(name, ())) != len(term):
            return False
        if any(
            sizes.setdefault(i, size) != size for i, size in zip(term, shapes[name], strict=True)
        ):
            return False
    counts = Counter("".join([*terms, result]))
    return min(counts.values()) > 1


def _terms(node: onnx.NodeProto) -> tuple[list[str], str]:
    """Return the indices of what an Einsum reads, and of its result."""
    given, result = attributes(node)["equation"].replace(" ", "").split("->")
    return given.split(","), result


def _spatial(layer: Linear) -> range:
    """Return the spatial axes of a convolution's tensors."""
    return range(2, len(layer.kernel) + 2)


def _geometry(layer: Linear) -> dict[str, Any]:
    return {
        "strides": layer.strides,
        "dilations": layer.dilations,
        "pads": layer.pads,
        "group": layer.group,
        "kernel_shape": layer.kernel,
    }


def _transposed(at: Step, layer: Linear) -> Value:
    reach = np.multiply(layer.dilations, np.subtract(layer.kernel, 1)) + 1
    seen = np.multiply(layer.strides, np.subtract(at.y.shape[2:], 1)) + reach
    unseen = at.x.shape[2:] + np.reshape(layer.pads, (2, -1)).sum(0) - seen
    return at.dy.op(
        "ConvTranspose", at.input(1), output_padding=unseen.tolist(), **_geometry(layer)
    )


def _mirrored(at: Step, layer: Linear) -> Value:
    """Turn a weight (M, C / groups, taps) into that of the mirrored map, (C, M / groups, taps)."""
    weight, rank, spatial = at.input(1), len(layer.kernel), _spatial(layer)
    if math.prod(layer.kernel) > 1:
        weight = weight.op("Slice", [-1] * rank, [-(2**31)] * rank, spatial, [-1] * rank)
    if layer.depthwise and at.x.shape[1] == at.y.shape[1]:
        return weight
    if layer.group == 1:
        return weight.transpose([1, 0, *spatial])
    # (M, C / g, ...) -> (g, M / g, C / g, ...) -> (g, C / g, M / g, ...) -> (C, M / g, ...)
    inside = weight.sizes().op("Slice", [1], [2**31])
    apart = weight.op("Reshape", at.tape.op("Concat", [layer.group, -1], inside, axis=0))
    swapped = apart.transpose([0, 2, 1, *(axis + 1 for axis in spatial)])
    rest = swapped.sizes().op("Slice", [2], [2**31])
    return swapped.op("Reshape", at.tape.op("Concat", [-1], rest, axis=0))


def _conv_weight(at: Step, layer: Linear) -> Value:
    """Sum the products of what each tap saw with the gradient, over positions and samples."""
    if set(layer.strides) != {1} and math.prod(layer.kernel) > 1:
        found = [_by_sample(at, layer, _columns(at, layer))]
    elif layer.depthwise and at.x.shape[1] == at.y.shape[1]:
        axes = [0, *_spatial(layer)]
        found = [(seen * at.dy).sum(axes, keep=False).reshape([0, 1]) for seen in _taps(at, layer)]
    elif layer.group == 1 and _has_many_weights(at, layer):
        swap = [1, 0, *_spatial(layer)]
        rows = at.dy.transpose(swap).reshape([0, -1])
        turned = [seen.reshape([0, -1]) for seen in _taps(at, layer, swap)]
        found = [rows.op("Gemm", seen, transB=1).reshape([0, 0, 1]) for seen in turned]
    else:
        found = [
            _by_sample(at, layer, seen.reshape([0, layer.group, -1, _positions(at)])).reshape(
                [0, 0, 0, 1]
            )
            for seen in _taps(at, layer)
        ]
    together = found[0] if len(found) == 1 else at.tape.op("Concat", *found, axis=-1)
    return together.like(at.input(1))


def _has_many_weights(at: Step, layer: Linear) -> bool:
    """Whether gradients of all samples are more than their activations, by far."""
    inputs, outputs = at.x.shape[1], at.y.shape[1]
    return math.prod(layer.kernel) * inputs * outputs > 4 * (inputs + outputs) * _positions(at)


def _positions(at: Step) -> int:
    return math.prod(at.y.shape[2:])


def _by_sample(at: Step, layer: Linear, seen: Value) -> Value:
    """Multiply by the gradient, sample by sample: onnxruntime does so in parallel."""
    gradient = at.dy.reshape([0, layer.group, -1, _positions(at)])
    return gradient.op("MatMul", seen.transpose([0, 1, 3, 2])).sum([0], keep=False)


def _columns(at: Step, layer: Linear) -> Value:
    """Take what all taps saw, (samples, groups, inputs of a group * taps, positions).

    A convolution of single channels does so, each of whose kernels is one tap.
    """
    taps = math.prod(layer.kernel)
    single = np.eye(taps).reshape(taps, 1, *layer.kernel)
    maps = at.x.reshape([-1, 1, *at.x.shape[2:]])
    seen = maps.op("Conv", at.tape.floats(single), **_geometry(layer) | {"group": 1})
    sizes = at.tape.op("Concat", at.x.size(0), [layer.group, -1, _positions(at)], axis=0)
    return seen.op("Reshape", sizes)


def _taps(at: Step, layer: Linear, order: Sequence[int] = ()) -> list[Value]:
    """Take what each tap of the kernel saw at every output position, axes in some order."""
    rank, x = len(layer.kernel), at.x
    if any(layer.pads):
        x = x.op("Pad", [0, 0, *layer.pads[:rank], 0, 0, *layer.pads[rank:]])
    x = x.transpose(order) if order else x
    if math.prod(layer.kernel) == 1 and set(layer.strides) == {1}:
        return [x]
    seen = []
    for tap in np.ndindex(*layer.kernel):
        starts = np.multiply(tap, layer.dilations)
        ends = starts + np.multiply(layer.strides, np.subtract(at.y.shape[2:], 1)) + 1
        seen.append(x.op("Slice", starts.tolist(), ends.tolist(), _spatial(layer), layer.strides))
    return seen


LAYERS: Mapping[str, Gradient] = {
    "Conv": Gradient(conv, frozenset({0, 1, 2}), layer=True),
    "ConvTranspose": Gradient(conv_transpose, layer=True),
    "Einsum": Gradient(einsum, EVERY, fits=sums_products),
    "Gemm": Gradient(gemm, frozenset({0, 1, 2}), layer=True),
    # Both operands are matrices, or stacks of them.
    "MatMul": Gradient(
        matmul,
        EVERY,
        fits=lambda node, _, shapes: all(len(shapes.get(name, ())) >= 2 for name in node.input),
    ),
}
