"""MACs and output errors, counted by code that shares nothing with the package.

A model is made to count for itself: behind every operator that multiplies and adds, nodes of shape
arithmetic compute how many products the run in onnxruntime really formed. The count leaves the body
of an If, Loop or Scan as one more output, so bodies count as often as they run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import onnx.helper as oh
import onnx.inliner
import onnxruntime as ort

Feed = Mapping[str, np.ndarray]
NUMBERS = itertools.count()


def fresh() -> str:
    """Return a tensor name that no graph has yet."""
    return f"recount/{next(NUMBERS)}"


class Meter:
    """Nodes of shape arithmetic behind one graph's nodes; methods return names of int64 scalars."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.total = self.constant(0)

    def node(self, op: str, *inputs: str, **attributes) -> str:
        name = fresh()
        self.graph.node.append(oh.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, value: int | list[int]) -> str:
        return self.node("Constant", value=onnx.numpy_helper.from_array(np.array(value, np.int64)))

    def dims(self, tensor: str, *axes: int) -> str:
        """Product of a tensor's sizes along some axes."""
        sizes = self.node("Gather", self.node("Shape", tensor), self.constant(list(axes)))
        return self.node("ReduceProd", sizes, keepdims=0)

    def size(self, tensor: str) -> str:
        return self.node("Size", tensor)

    def times(self, *scalars: str) -> str:
        product = scalars[0]
        for scalar in scalars[1:]:
            product = self.node("Mul", product, scalar)
        return product

    def add(self, *scalars: str) -> str:
        total = scalars[0]
        for scalar in scalars[1:]:
            total = self.node("Add", total, scalar)
        return total

    def over(self, dividend: str, divisor: str) -> str:
        return self.node("Div", dividend, divisor)


def attributes(node: onnx.NodeProto) -> dict:
    return {each.name: oh.get_attribute_value(each) for each in node.attribute}


# How many products a node forms. The standard's names of inputs stand in the functions' comments.
Formula = Callable[[Meter, onnx.NodeProto], str]


def convolution(weight: int) -> Formula:
    # W (M, C/group, k...): every output entry sums over C/group channels and the kernel
    def count(m: Meter, node: onnx.NodeProto) -> str:
        w = node.input[weight]
        return m.times(m.size(node.output[0]), m.over(m.size(w), m.dims(w, 0)))

    return count


def transposed(m: Meter, node: onnx.NodeProto) -> str:
    # W (C, M/group, k...): every input entry is spread over M/group channels and the kernel
    x, w = node.input[:2]
    return m.times(m.size(x), m.over(m.size(w), m.dims(w, 0)))


def product(m: Meter, node: onnx.NodeProto) -> str:
    # (..., n, K) by (..., K, m): every output entry sums over K; a vector's only axis is K
    # (trans_a of com.microsoft's FusedMatMul)
    return m.times(m.size(node.output[0]), m.dims(node.input[0], -1 - truth(node, "transA")))


def gemm(m: Meter, node: onnx.NodeProto) -> str:
    return m.times(m.size(node.output[0]), m.dims(node.input[0], 1 - truth(node, "transA")))


def truth(node: onnx.NodeProto, name: str) -> int:
    return int(bool(attributes(node).get(name, 0)))


def einsum(m: Meter, node: onnx.NodeProto) -> str:
    # every output entry sums over the letters that it lacks, one product for each operand but one
    left, arrow, right = attributes(node)["equation"].decode().replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
    factors = [m.size(node.output[0]), m.constant(len(terms) - 1)]
    for letter in sorted(set(left) - set(right) - set(",.")):
        index, term = next((i, term) for i, term in enumerate(terms) if letter in term)
        axis = term.index(letter)
        behind = len(term) - axis
        factors.append(m.dims(node.input[index], -behind if "." in term[:axis] else axis))
    return m.times(*factors)


def attention(m: Meter, node: onnx.NodeProto) -> str:
    # Q and Y, 3-D or 4-D, have an entry for every sample, query, head and channel: each of Q's
    # meets every key, each of Y's sums over every value; past keys (input 4) come before K's
    q, k = node.input[:2]
    keys = m.dims(k, -2)
    if len(node.input) > 4 and node.input[4]:
        keys = m.add(keys, m.dims(node.input[4], -2))
    return m.times(keys, m.add(m.size(q), m.size(node.output[0])))


def multi_head(m: Meter, node: onnx.NodeProto) -> str:
    # query, key and value (samples, tokens, channels); past keys (samples, heads, tokens, size)
    q, k = node.input[:2]
    keys = m.dims(k, 1)
    if len(node.input) > 6 and node.input[6]:
        keys = m.add(keys, m.dims(node.input[6], 2))
    return m.times(keys, m.add(m.size(q), m.size(node.output[0])))


def self_attention(m: Meter, node: onnx.NodeProto) -> str:
    # input (samples, tokens, in), weights (in, 3 * channels), then every token meets every token
    x, w = node.input[:2]
    inside = m.times(m.dims(x, 1), m.constant(2), m.size(node.output[0]))
    return m.add(m.times(m.dims(x, 0, 1), m.size(w)), inside)


def recurrent(m: Meter, node: onnx.NodeProto) -> str:
    # X (steps, samples, in) in either layout, W (directions, gates * H, in), R the same by H:
    # all of W and R for every step and sample
    x, w, r = node.input[:3]
    return m.times(m.dims(x, 0, 1), m.add(m.size(w), m.size(r)))


CONVOLUTIONS = dict.fromkeys(
    ("Conv", "ConvInteger", "DeformConv", "CausalConvWithState"), convolution(1)
)
PRODUCTS = dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), product)
FORMULAS: dict[str, dict[str, Formula]] = {
    "": CONVOLUTIONS
    | PRODUCTS
    | dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent)
    | {"QLinearConv": convolution(3), "ConvTranspose": transposed}
    | {"Gemm": gemm, "Einsum": einsum, "Attention": attention},
    "com.microsoft": {
        "FusedConv": convolution(1),
        "FusedGemm": gemm,
        "QGemm": gemm,
        "FusedMatMul": product,
        "DynamicQuantizeMatMul": product,
        "MatMulIntegerToFloat": product,
        "MatMulNBits": lambda m, node: m.times(
            m.size(node.output[0]), m.constant(attributes(node)["K"])
        ),
        "MultiHeadAttention": multi_head,
        "Attention": self_attention,
    },
}


def counting(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose only output is how many products a run of it forms."""
    model = onnx.inliner.inline_local_functions(model)
    total = instrument(model.graph, set())
    del model.graph.output[:]
    model.graph.output.append(oh.make_tensor_value_info(total, onnx.TensorProto.INT64, []))
    return model


def instrument(graph: onnx.GraphProto, constants: set[str]) -> str:
    """Add counting nodes to a graph; return the name of its total.

    Nodes that depend on constants alone (of this graph or around it) are none of a run's work.
    """
    inputs = {value.name for value in graph.input}
    constants = constants | {tensor.name for tensor in graph.initializer} - inputs
    nodes = list(graph.node)
    del graph.node[:]
    meter = Meter(graph)
    for node in nodes:
        bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        graph.node.append(node)
        node = graph.node[-1]
        if not bodies and constants.issuperset(filter(None, node.input)):
            constants.update(node.output)
        elif bodies:
            meter.total = meter.add(meter.total, inside(meter, node, constants))
        elif formula := FORMULAS.get(node.domain, {}).get(node.op_type):
            meter.total = meter.add(meter.total, formula(meter, node))
    return meter.total


def inside(meter: Meter, node: onnx.NodeProto, constants: set[str]) -> str:
    """Let a node with bodies hand out their counts; return the name of the sum."""
    assert node.op_type in {"If", "Loop", "Scan"}, node.op_type
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            body = attribute.g
            inner = instrument(body, constants)
            body.output.append(oh.make_tensor_value_info(inner, onnx.TensorProto.INT64, []))
        elif attribute.name in {"scan_output_axes", "scan_output_directions"}:
            attribute.ints.append(0)
    node.output.append(fresh())
    # a scalar of an If, one for every trip otherwise
    return meter.node("ReduceSum", node.output[-1], keepdims=0)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def macs(model: onnx.ModelProto, feed: Feed) -> int:
    """Multiply-accumulates of one run, bodies as often as they run."""
    return int(session(counting(model)).run(None, dict(feed))[0])


def outputs(model: onnx.ModelProto, feeds: Iterable[Feed], axis: int = 0) -> dict[str, np.ndarray]:
    """Every output's values in float64, those of all feeds one behind the other along an axis."""
    running = session(model)
    names = [each.name for each in running.get_outputs()]
    runs = zip(*(running.run(None, dict(feed)) for feed in feeds), strict=True)
    return {
        name: np.concatenate(values, axis).astype(np.float64)
        for name, values in zip(names, runs, strict=True)
    }


def relative_error(original: np.ndarray, pruned: np.ndarray, axis: int = 0) -> float:
    """Squared error relative to the deviations of entries from their own means over samples."""
    deviations = original - original.mean(axis, keepdims=True)
    return float(((pruned - original) ** 2).sum() / (deviations**2).sum())
