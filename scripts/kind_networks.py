"""Small models whose inputs are no images: graphs, sequences, ids and texts."""

from __future__ import annotations

from typing import Any

import numpy as np
from small_graphs import BATCH, Graph, below, one_of

C = 16  # channels
STEPS, WIDTH = 10, 8  # of sequences
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ROWS = 60  # of tables


def rows(g: Graph) -> str:
    """Rows of an image that another input picks."""
    x = g.block(g.input("x", 1, 4, 12, 12), 4, C)
    x = g("Gather", x, g.input("rows", 5, draw=below(12)), axis=2)
    return g.conv(g.block(x, C, C), C, 3)


def _edges(g: Graph) -> tuple[str, list[str]]:
    """Make features of a graph's nodes, and the two ends of its edges."""
    x = g("Relu", g.dense(g.input("feat", "nodes", WIDTH), WIDTH, C))
    edges = g.input("edge_index", 2, "edges", draw=below(10))
    return x, [g("Gather", edges, np.array(k), axis=0) for k in (0, 1)]


def scatter_elements(g: Graph) -> str:
    """Messages along edges, summed where they arrive."""
    x, (source, target) = _edges(g)
    for _ in range(2):
        message = g("Relu", g.dense(g("Gather", x, source, axis=0), C, C))
        where = g("Expand", g("Unsqueeze", target, np.array([1])), g("Shape", message))
        start = g("Mul", x, np.array(0.0))
        sums = g("ScatterElements", start, where, message, axis=0, reduction="add")
        x = g("Relu", g.dense(g("Add", x, sums), C, C))
    return g.dense(x, C, 3)


def scatter_nd(g: Graph) -> str:
    x, ends = _edges(g)
    source, target = (g("Unsqueeze", end, np.array([1])) for end in ends)
    for _ in range(2):
        message = g("Relu", g.dense(g("GatherND", x, source), C, C))
        sums = g("ScatterND", g("Mul", x, np.array(0.0)), target, message, reduction="add")
        x = g("Relu", g.dense(g("Add", x, sums), C, C))
    return g.dense(x, C, 3)


def best_tokens(g: Graph) -> str:
    """Tokens that score highest go on."""
    x = g("Relu", g.dense(g.input("x", BATCH, STEPS, WIDTH), WIDTH, C))
    score = g("Squeeze", g.dense(x, C, 1), np.array([2]))
    _, best = g("TopK", score, np.array([4]), axis=1, outputs=2)
    where = g("Expand", g("Unsqueeze", best, np.array([2])), np.array([1, 1, C]))
    x = g("GatherElements", x, where, axis=1)
    return g.dense(g("Relu", g.dense(x, C, C)), C, 4)


def vector(g: Graph) -> str:
    """Flatten a batch of one to a vector."""
    x = g("Reshape", g.block(g.input("x", 1, 3, 6, 6), 3, C), np.array([-1]))
    return g.dense(g("Relu", g.dense(x, 36 * C, 2 * C)), 2 * C, 4)


def deep(g: Graph) -> str:
    x, width = g.input("x", BATCH, 12), 12
    for _ in range(3):
        x, width = g("Relu", g("MatMul", x, g.weight(width, 2 * C, fan=width))), 2 * C
    return g.dense(x, 2 * C, 4)


def recurrent(g: Graph, op: str, *, both: bool = False, state: str = "") -> str:
    """Send a sequence through one recurrent layer, and a dense layer at each step."""
    directions, size = 1 + both, GATES[op] * C
    batch: int | str = 1 if state == "input" else BATCH
    x = g.input("x", batch, STEPS, WIDTH)
    weights = [g.weight(directions, size, n, fan=n) for n in (WIDTH, C)] + [
        g.shift(directions, 2 * size)
    ]
    more = ["", _state(g, x, state)] if state else []
    if op == "LSTM" and both:  # peepholes
        more = ["", "", "", g.shift(directions, 3 * C)]
    given: dict[str, Any] = {"hidden_size": C} | ({"direction": "bidirectional"} if both else {})
    y = g(op, g("Transpose", x, perm=[1, 0, 2]), *weights, *more, **given)
    y = g("Transpose", y, perm=[2, 0, 1, 3])  # samples, steps, directions, units
    return g.dense(g("Reshape", y, np.array([0, STEPS, directions * C])), directions * C, 4)


def _state(g: Graph, x: str, state: str) -> str:
    if state == "input":
        return g.input("state", 1, 1, C)
    if state == "zeros":
        shape = g("Concat", np.array([1]), g("Shape", x, end=1), np.array([C]), axis=0)
        return str(g("ConstantOfShape", shape))
    made = g("Tanh", g.dense(g("ReduceMean", x, axes=[1], keepdims=0), WIDTH, C))
    return str(g("Unsqueeze", made, np.array([0])))


def letters(g: Graph) -> str:
    """Texts of eight letters, by way of a table."""
    known = [chr(ord("a") + k) for k in range(26)]
    x = g.input("letters", BATCH, 8, draw=one_of(known))
    given: dict[str, Any] = {
        "keys_strings": known,
        "values_int64s": list(range(1, 27)),
        "default_int64": 0,
    }
    ids = g("LabelEncoder", x, domain="ai.onnx.ml", **given)
    x = g("Reshape", g("Gather", g.weight(27, C, fan=2), ids), np.array([0, 8 * C]))
    return g.dense(g("Relu", g.dense(g("Relu", g.dense(x, 8 * C, C)), C, C)), C, 4)


def embedding(g: Graph) -> str:
    """Ids that index a table."""
    ids = g.input("ids", BATCH, STEPS, draw=below(ROWS))
    x = g("Gather", g.weight(ROWS, C, fan=2), ids)
    return g.dense(g("Relu", g.dense(g("Relu", g.dense(x, C, C)), C, C)), C, 4)
