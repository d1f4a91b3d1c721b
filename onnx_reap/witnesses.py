"""Tensors that tell more of two models than their outputs do."""

from __future__ import annotations

import onnx

from onnx_reap.graph.probe import JUMPS, RANDOM
from onnx_reap.runtime import names_in_subgraphs

SATURATES = frozenset(("HardSigmoid", "Sigmoid", "Softmax", "Tanh"))
"""Activations whose results lie within 1 of 0, and hardly change where inputs are large."""

_MOVES = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
_FLOATS = {"FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16"}


def find_jumps(graph: onnx.GraphProto) -> tuple[dict[str, str], list[str]]:
    """Find what lies behind jumps, and what goes into them.

    Parameters
    ----------
    graph : onnx.GraphProto
        Sorted topologically.

    Returns
    -------
    causes : dict of str to str
        For every tensor behind a jump, the operator that jumps.
    witnesses : list of str
        Tensors that nodes compute in front of all jumps, and that jumps or what follows them read.
    """
    causes: dict[str, str] = {}
    witnesses: dict[str, None] = {}
    smooth: set[str] = set()
    for node in graph.node:
        names = [name for name in node.input if name] + names_in_subgraphs(node)
        cause = next((causes[name] for name in names if name in causes), None)
        if cause is None and _jumps(node):
            cause = node.op_type
        if cause is None:
            smooth.update(node.output)
            continue
        causes.update((name, cause) for name in node.output if name)
        witnesses.update((name, None) for name in names if name in smooth)
    return causes, list(witnesses)


def _jumps(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        to = next((a.i for a in node.attribute if a.name == "to"), onnx.TensorProto.FLOAT)
        return onnx.TensorProto.DataType.Name(to) not in _FLOATS
    return node.op_type in JUMPS | RANDOM


def find_saturated(graph: onnx.GraphProto) -> tuple[set[str], list[str]]:
    """Find outputs that are results of saturating activations, and what goes into these.

    Nothing but moves and concatenations, which drop nothing, may lie in between.

    Returns
    -------
    outputs : set of str
    witnesses : list of str
        Inputs of the activations.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    found = {value.name: _inputs(value.name, makers) for value in graph.output}
    saturated = {name for name, inputs in found.items() if inputs}
    return saturated, [name for inputs in found.values() for name in inputs]


def _inputs(name: str, makers: dict[str, onnx.NodeProto]) -> list[str]:
    """Return what activations make a tensor of; none if anything else does."""
    todo, inputs = [name], []
    while todo:
        node = makers.get(todo.pop())
        if node is not None and node.op_type in SATURATES:
            inputs.append(node.input[0])
        elif node is not None and node.op_type in _MOVES:
            todo.append(node.input[0])
        elif node is not None and node.op_type == "Concat":
            todo.extend(node.input)
        else:
            return []
    return inputs
