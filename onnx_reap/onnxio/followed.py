"""Ifs, Loops and Scans that stand as the nodes that they run, see `conditionals` and `loops`."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np
import onnx
from onnx import NodeProto

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.bodies import first_result, in_order
from onnx_reap.onnxio.conditionals import Moved, take_apart
from onnx_reap.onnxio.conditionals import put_back as branch_put_back
from onnx_reap.onnxio.extract import bodies_of, names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.loops import Around, Unrolled, unroll
from onnx_reap.onnxio.renaming import Names
from onnx_reap.onnxio.rolling import put_back as loop_put_back

Taken = Mapping[str, bool | int]
"""Whether the condition of an If holds, or how many trips a Loop or Scan makes.

By the name of its first result.
"""

Followed = Moved | Unrolled


def with_bodies_in_front(
    light: LightModel, taken: Taken, draws: Callable[[str], bool]
) -> tuple[LightModel, tuple[Followed, ...]]:
    """Put the nodes of bodies in the place of nodes that run them, those of Ifs in branches too.

    Initializers of a body become Constant nodes. Names that are used elsewhere too are replaced.

    Parameters
    ----------
    draws : callable
        Tells whether an operator draws random numbers.
    """
    if not taken:
        return light, ()
    out = onnx.ModelProto()
    out.CopyFrom(light.proto)
    names, constants = Names(light.graph), {tensor.name for tensor in light.graph.initializer}
    opset = next(o.version for o in light.proto.opset_import if o.domain in ("", "ai.onnx"))
    read = {value.name for value in light.graph.output}
    read.update(n for node in light.graph.node for n in (*node.input, *names_in_subgraphs(node)))
    around = Around(names, opset, constants, read, draws)
    todo, nodes, found = deque(light.graph.node), list[NodeProto](), list[Followed]()
    while todo:
        node = todo.popleft()
        known = taken.get(first_result(node)) if bodies_of(node) else None
        if known is None:
            nodes.append(node)
            constants.update(node.output if node.op_type == "Constant" else ())
        elif node.op_type == "If":
            moved, stays = take_apart(node, bool(known), names)
            found.append(moved)
            todo.extendleft(reversed([*moved.nodes, *moved.joints, stays]))
        else:
            unrolled, inside = unroll(node, known, around)
            found.append(unrolled)
            nodes += inside
    if unmet := taken.keys() - {first_result(each.node) for each in found}:
        raise ReapError("the model has no such node with a body", got=", ".join(sorted(unmet)))
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return replace(light, proto=out), tuple(found)


def with_bodies_inside(
    nodes: Sequence[NodeProto],
    followed: Sequence[Followed],
    known: Set[str],
    changed: Set[str],
    constant: Callable[[str], np.ndarray | None],
) -> list[NodeProto]:
    """Put nodes back into their bodies, with new ones that only serve these.

    Parameters
    ----------
    known : set of str
        What the nodes of the model made when it was read.
    changed : set of str
        Constants that have other values since.
    constant : callable
        Returns the values of a constant; None for another tensor.
    """
    back = list(nodes)
    for each in reversed(followed):  # those inside of others first
        if isinstance(each, Moved):
            back = branch_put_back(back, each, known, changed)
        else:
            back = loop_put_back(back, each, known, changed, constant)
    return in_order(back) if followed else back
