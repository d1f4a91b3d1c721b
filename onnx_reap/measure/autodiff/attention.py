"""Gradients of Attention and RotaryEmbedding."""

from collections.abc import Mapping

import numpy as np
import onnx

from onnx_reap.measure.autodiff.gradient import Gradient, Step
from onnx_reap.measure.autodiff.tape import Constants, Shapes, Value, attributes

QUERIES, KEYS, VALUES, MASK = range(4)
HIDDEN = -1e30  # score of what a query must not see


def attention(at: Step) -> Value:
    """Gradient of an Attention towards queries, keys or values.

    Heads of keys and values, (N, heads, 1, T, D), lie beside the queries that share them,
    (N, heads, queries, S, D).
    """
    q, k, v = (_heads(at, at.input(place), place) for place in (QUERIES, KEYS, VALUES))
    products = q.op("MatMul", _turned(k))
    if scale := at.get("scale", 0.0):
        weights = _softmax(at, products * scale)
    else:
        size = q.size(4).floats().op("Sqrt")
        weights = _softmax(at, products / size)
    dy = _heads(at, at.dy, QUERIES)
    if at.place == VALUES:
        return _joined(at, _turned(weights).op("MatMul", dy).sum([2], keep=True))
    change = dy.op("MatMul", _turned(v))
    change = weights * (change - (change * weights).sum([4], keep=True))
    change = change * scale if scale else change / size
    if at.place == QUERIES:
        return _joined(at, change.op("MatMul", k))
    return _joined(at, _turned(change).op("MatMul", q).sum([2], keep=True))


def _heads(at: Step, x: Value, place: int) -> Value:
    """Give heads, and queries of one head, an axis each."""
    if len(at.x.shape) == 4:
        queries, keys = at.input(QUERIES).shape, at.input(KEYS).shape
        if place != QUERIES:
            return x.op("Unsqueeze", [2])
        # The result has the values' entries where this is a gradient.
        return x.reshape([0, -1, queries[1] // keys[1], queries[2], _size(at, x)])
    count = at.get("kv_num_heads", 1)
    each = at.get("q_num_heads", 1) // count if place == QUERIES else 1
    return x.reshape([0, 0, count, each, -1]).transpose([0, 2, 3, 1, 4])


def _size(at: Step, x: Value) -> int:
    return (at.input(VALUES) if x is at.dy else x).shape[3]


def _joined(at: Step, gradient: Value) -> Value:
    """Give a gradient the axes of the input."""
    if len(at.x.shape) == 3:
        gradient = gradient.transpose([0, 3, 1, 2, 4])
    return gradient.like(at.input(at.place))


def _turned(x: Value) -> Value:
    return x.transpose([0, 1, 2, 4, 3])


def _softmax(at: Step, scores: Value) -> Value:
    """Weigh what each query sees."""
    if at.get("is_causal", 0):
        length, seen = at.input(QUERIES).shape[-2], at.input(KEYS).shape[-2]
        scores = scores + at.tape.floats(HIDDEN * np.triu(np.ones((length, seen)), 1))
    if len(at.node.input) > MASK and at.node.input[MASK]:
        mask = at.input(MASK)
        mask = mask.op("Unsqueeze", [2]) if len(mask.shape) == 4 else mask
        constant = at.tape.constants.get(at.node.input[MASK])
        if constant is not None and constant.dtype == bool:
            scores = mask.choose(scores, at.tape.floats(HIDDEN))
        else:
            scores = scores + mask
    return scores.op("Softmax", axis=-1)


def _plain(node: onnx.NodeProto, constants: Constants, shapes: Shapes) -> bool:
    """Whether an Attention has no cache, no cap, and at most a constant mask for all heads."""
    given = attributes(node)
    if any(node.input[MASK + 1 :]) or any(node.output[1:]) or given.get("softcap"):
        return False
    mask = node.input[MASK] if len(node.input) > MASK else ""
    return not mask or (mask in constants and constants[mask].shape[:-2][-1:] in ((), (1,)))


def rotary(at: Step) -> Value:
    """Gradient of a RotaryEmbedding: it turns back."""
    cosines, sines, *places = at.node.input[1:]
    back = at.tape.value(sines).op("Neg")
    return at.dy.op("RotaryEmbedding", cosines, back, *places, **attributes(at.node))


ATTENTION: Mapping[str, Gradient] = {
    "Attention": Gradient(attention, frozenset({QUERIES, KEYS, VALUES}), fits=_plain),
    "RotaryEmbedding": Gradient(rotary),
}
