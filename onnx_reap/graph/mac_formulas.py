"""How many multiply-accumulates a node takes, as nodes that compute it from shapes in a run."""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS

MICROSOFT = "com.microsoft"


class Counted:
    """A node of a graph that gets nodes which count what it takes; names are int64 scalars.

    Parameters
    ----------
    names : iterator of str
        Names that no tensor has yet.
    """

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto, names: Iterator[str]) -> None:
        self.node = node
        self.graph = graph
        self._names = names
        self.given = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    @property
    def output(self) -> str:
        """The node's first output."""
        return str(next(name for name in self.node.output if name))

    def input(self, index: int) -> str:
        """Return the name of an input, empty if it has none there."""
        return str(self.node.input[index]) if index < len(self.node.input) else ""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, return its output."""
        name = next(self._names)
        self.graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def number(self, value: int) -> str:
        """Return a constant."""
        return self.op("Constant", value=numpy_helper.from_array(np.array(value, np.int64)))

    def size(self, tensor: str) -> str:
        """Return how many entries a tensor has."""
        return self.op("Size", tensor)

    def length(self, tensor: str, axis: int) -> str:
        """Return the length of an axis."""
        shape, place = self.op("Shape", tensor), self.number(axis)
        if axis < 0:  # which Gather takes from operator set 11 on
            place = self.op("Add", self.op("Size", shape), place)
        return self.op("Gather", shape, place, axis=0)

    def times(self, *factors: str) -> str:
        """Return a product."""
        return reduce(lambda a, b: self.op("Mul", a, b), factors)

    def plus(self, *summands: str) -> str:
        """Return a sum."""
        return reduce(lambda a, b: self.op("Add", a, b), summands)

    def over(self, dividend: str, divisor: str) -> str:
        """Return a quotient."""
        return self.op("Div", dividend, divisor)


Formula = Callable[[Counted], str | None]
"""Writes how many multiply-accumulates a node takes; None where that isn't known."""


def _conv(weight: int) -> Formula:
    def count(node: Counted) -> str:
        return _taps(node, node.output, node.input(weight))

    return count


def _conv_transpose(node: Counted) -> str:
    return _taps(node, node.input(0), node.input(1))


def _taps(node: Counted, places: str, weight: str) -> str:
    """Every entry meets what the weight holds for it, whose first axis is that of the entries."""
    each = node.over(node.size(weight), node.length(weight, 0))
    return node.times(node.size(places), each)


def _matmul(node: Counted) -> str:
    axis = -2 if node.given.get("transA") else -1
    return node.times(node.size(node.output), node.length(node.input(0), axis))


def _matmul_nbits(node: Counted) -> str:
    return node.times(node.size(node.output), node.number(node.given["K"]))


def _recurrent(node: Counted) -> str:
    x, w, r = (node.input(index) for index in range(3))
    steps = node.over(node.size(x), node.length(x, 2))
    return node.times(steps, node.plus(node.size(w), node.size(r)))


def _einsum(node: Counted) -> str:
    """Every entry sums over the letters that the result lacks."""
    left, arrow, out = node.given["equation"].decode().replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(letter for letter in left if left.count(letter) == 1)
    lengths = []
    for letter in sorted({*left} - {*out, ",", "."}):
        index = next(i for i, term in enumerate(terms) if letter in term)
        before, _, after = terms[index].partition(letter)
        behind = "." in before  # an ellipsis, which stands for any number of axes
        axis = -len(after) - 1 if behind else len(before)
        lengths.append(node.length(node.input(index), axis))
    return node.times(node.size(node.output), node.number(len(terms) - 1), *lengths)


def _attention(node: Counted) -> str:
    q, k, past = node.input(0), node.input(1), node.input(4)
    keys = node.length(k, -2)
    return _meet(node, node.size(q), node.plus(keys, node.length(past, -2)) if past else keys)


def _multi_head_attention(node: Counted) -> str | None:
    q, k, v, past = (node.input(index) for index in (0, 1, 2, 6))
    if not v:
        return None  # keys or all in one tensor, of which onnxruntime has no kernel for CPUs
    # Keys have as many channels as queries, in three axes or four.
    keys = node.over(node.times(node.size(k), node.length(q, 1)), node.size(q))
    return _meet(node, node.size(q), node.plus(keys, node.length(past, 2)) if past else keys)


def _self_attention(past: int) -> Formula:
    """Attention that computes queries, keys and values itself, all by one weight."""

    def count(node: Counted) -> str:
        x, weight, before = node.input(0), node.input(1), node.input(past)
        keys, columns = node.length(x, 1), node.length(weight, 1)
        keys = node.plus(keys, node.length(before, 3)) if before else keys
        places = node.times(node.length(x, 0), node.length(x, 1))
        # What the values leave is shared by queries and keys.
        wide = node.op("Sub", columns, node.length(node.output, 2))
        queries = node.over(node.times(places, wide), node.number(2))
        return node.plus(node.times(places, node.size(weight)), _meet(node, queries, keys))

    return count


def _meet(node: Counted, queries: str, keys: str) -> str:
    """Every entry of a query meets every key, every entry of the result sums over the values."""
    return node.times(keys, node.plus(queries, node.size(node.output)))


_STANDARD: Mapping[str, Formula] = {
    "Attention": _attention,
    "CausalConvWithState": _conv(1),
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "DeformConv": _conv(1),
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _matmul,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv(3),
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
}

_OF_MICROSOFT: Mapping[str, Formula] = {
    "Attention": _self_attention(4),
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeMatMul": _matmul,
    "FusedConv": _conv(1),
    "FusedGemm": _matmul,
    "FusedMatMul": _matmul,
    "FusedMatMulActivation": _matmul,
    "GemmFastGelu": _matmul,
    "MatMulInteger16": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "MatMulNBits": _matmul_nbits,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _self_attention(8),
    "QGemm": _matmul,
    "TransposeMatMul": _matmul,
}


def formula_of(domain: str | None, op: str) -> Formula | None:
    """Return how to count what a node takes; None for operators that multiply nothing."""
    if domain in STANDARD_DOMAINS:
        return _STANDARD.get(op)
    return _OF_MICROSOFT.get(op) if domain == MICROSOFT else None
