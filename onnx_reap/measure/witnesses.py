"""Tensors that tell more of two models than their outputs do."""

from collections.abc import Iterable

import onnx

from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import FLOATS
from onnx_reap.onnxio.extract import names_in_subgraphs


def find_jumps(graph: onnx.GraphProto) -> tuple[dict[str, str], list[str]]:
    """Find what lies behind jumps, and what goes into them.

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
        return to not in FLOATS
    return bool(traits_of(node.op_type) & (Trait.JUMPS | Trait.RANDOM))


def find_saturated(graph: onnx.GraphProto, names: Iterable[str]) -> tuple[set[str], list[str]]:
    """Find tensors that hold results of saturating activations, and all that these are made of.

    Nothing but moves, selections and largest entries may lie in between.

    Parameters
    ----------
    names : iterable of str
        Where to look.

    Returns
    -------
    saturated : set of str
    witnesses : list of str
        Inputs of the activations, and what else is in these tensors.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    saturated: set[str] = set()
    witnesses: list[str] = []
    for name in names:
        inputs, others = _parts(name, makers)
        if inputs:
            saturated.add(name)
            witnesses += [*inputs, *others]
    return saturated, list(dict.fromkeys(witnesses))


def _parts(name: str, makers: dict[str, onnx.NodeProto]) -> tuple[list[str], list[str]]:
    """Return what activations make parts of a tensor of, and the other parts that nodes make."""
    todo, inputs, others = [name], list[str](), list[str]()
    while todo:
        part = todo.pop()
        node = makers.get(part)
        if node is None:
            continue
        traits = traits_of(node.op_type)
        if Trait.SATURATES in traits:
            inputs.append(node.input[0])
        elif traits & (Trait.SAME_ENTRIES | Trait.SELECTS):
            todo.append(node.input[0])
        elif node.op_type == "Concat":
            todo.extend(node.input)
        else:
            others.append(part)
    return inputs, others
