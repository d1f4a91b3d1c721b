"""Small models whose layers lie in the bodies of If, Loop and Scan."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from onnx import helper as oh
from small_graphs import Graph

C = 16  # channels
STEPS, WIDTH = 6, 8  # of sequences


def _real(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return oh.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def branch(g: Graph) -> str:
    """Make two networks, each in a branch, for two sampling rates."""
    x = g.input("x", 1, 3, 8, 8)
    rate = g("Equal", g.input("rate", draw=_sixteen), np.array(16))
    branches = {}
    for name in ("then", "else"):
        weights = [g.weight(C, 3, 3, 3), g.weight(C, C, 3, 3), g.weight(4, C, 3, 3)]
        nodes, y = [], x
        for k, weight in enumerate(weights):
            made = [f"{name}_c{k}", f"{name}_r{k}"]
            nodes.append(oh.make_node("Conv", [y, weight], made[:1], made[0], pads=[1] * 4))
            nodes.append(oh.make_node("Relu", made[:1], made[1:], made[1]))
            y = made[1]
        branches[f"{name}_branch"] = oh.make_graph(nodes, name, [], [_real(y, 1, 4, 8, 8)])
    return str(g("If", rate, **branches))


def _sixteen(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 16)


def _cell(g: Graph) -> list[onnx.NodeProto]:
    """Make a state from the one before and a step of the input."""
    w, r = g.weight(WIDTH, C, fan=WIDTH), g.weight(C, C, fan=2 * C)
    return [
        oh.make_node("MatMul", ["step", w], ["of_step"], "of_step"),
        oh.make_node("MatMul", ["before", r], ["of_state"], "of_state"),
        oh.make_node("Add", ["of_step", "of_state"], ["sum"], "sum"),
        oh.make_node("Tanh", ["sum"], ["after"], "after"),
    ]


def _zeros(g: Graph, x: str) -> str:
    return str(g("ConstantOfShape", g("Concat", g("Shape", x, end=1), np.array([C]), axis=0)))


def loop(g: Graph) -> str:
    """Write a recurrent network out as a Loop, whose last state is read."""
    x = g.input("x", "N", STEPS, WIDTH)
    start = _zeros(g, x)
    nodes = [
        oh.make_node("Gather", [x, "i"], ["step"], "pick", axis=1),
        *_cell(g),
        oh.make_node("Identity", ["go"], ["more"], "more"),
    ]
    number, flag = (
        oh.make_tensor_value_info(name, kind, [])
        for name, kind in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))
    )
    more = oh.make_tensor_value_info("more", TensorProto.BOOL, [])
    body = oh.make_graph(
        nodes, "body", [number, flag, _real("before", "N", C)], [more, _real("after", "N", C)]
    )
    last = g("Loop", np.array(STEPS), np.array(True), start, body=body)
    return g.dense(last, C, 4)


def scan(g: Graph) -> str:
    """Write a recurrent network out as a Scan, whose every state is read."""
    x = g.input("x", "N", STEPS, WIDTH)
    start = _zeros(g, x)
    nodes = [*_cell(g), oh.make_node("Identity", ["after"], ["read"], "read")]
    body = oh.make_graph(
        nodes,
        "body",
        [_real("before", "N", C), _real("step", "N", WIDTH)],
        [_real("after", "N", C), _real("read", "N", C)],
    )
    axes = {"scan_input_axes": [1], "scan_output_axes": [1]}
    _, y = g("Scan", start, x, outputs=2, body=body, num_scan_inputs=1, **axes)
    return g.dense(y, C, 4)
