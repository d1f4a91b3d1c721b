"""Models whose nodes stand in the branches of an If."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.helper as oh

from onnx_reap.onnxio.extract import names_defined
from onnx_reap.onnxio.renaming import renamed

SWITCH = "switch"


def in_branches(
    model: onnx.ModelProto, *, own: bool = True, same_names: bool = False, switch: bool = True
) -> onnx.ModelProto:
    """Put all nodes of a model into a branch of an If, with a copy of them in the other.

    The first is taken where the new input `switch` is 1, or always.

    Parameters
    ----------
    own : bool
        Whether the first branch holds its weights for itself; the other always does.
    same_names : bool
        Whether tensors of the copy are called as in the first branch.
    """
    graph = model.graph
    weights, results = list(graph.initializer), list(graph.output)
    mine = _branch("mine", graph.node, weights if own else [], results, "mine/")
    prefix = "mine/" if same_names else "other/"
    other = _branch("other", graph.node, weights, results, prefix)
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:]
    if own:
        del out.graph.initializer[:]
    one = oh.make_node("Constant", [], ["one"], value=onnx.numpy_helper.from_array(np.array(1)))
    chosen = SWITCH if switch else "one"
    if switch:
        out.graph.input.append(oh.make_tensor_value_info(SWITCH, onnx.TensorProto.INT64, []))
    out.graph.node.extend([one, oh.make_node("Equal", [chosen, "one"], ["condition"])])
    branches = {"then_branch": mine, "else_branch": other}
    names = [value.name for value in graph.output]
    out.graph.node.append(oh.make_node("If", ["condition"], names, "choice", **branches))
    onnx.checker.check_model(out)
    return out


def _branch(name, nodes, weights, outputs, prefix) -> onnx.GraphProto:
    whole = oh.make_graph(list(nodes), name, [], [], [copy.deepcopy(w) for w in weights])
    own = set(names_defined(whole))

    def rename(tensor: str) -> str:
        return prefix + tensor if tensor in own else tensor

    inner = [renamed(node, rename) for node in whole.node]
    for node in inner:
        node.name = node.name and prefix + node.name
    for tensor in whole.initializer:
        tensor.name = rename(tensor.name)
    results = [copy.deepcopy(value) for value in outputs]
    for value in results:
        value.name = rename(value.name)
    return oh.make_graph(inner, name, [], results, list(whole.initializer))


def with_switch(feed: dict[str, np.ndarray], value: int = 1) -> dict[str, np.ndarray]:
    """Add the input that chooses the branch."""
    return feed | {SWITCH: np.array(value, np.int64)}


def the_if(model: onnx.ModelProto) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.op_type == "If")
    return node


def branch(model: onnx.ModelProto, holds: bool) -> onnx.GraphProto:
    name = "then_branch" if holds else "else_branch"
    return next(a.g for a in the_if(model).attribute if a.name == name)
