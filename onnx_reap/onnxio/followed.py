"""Ifs, Loops and Scans that stand as the nodes that they run, see `conditionals` and `loops`."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import NodeProto

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.bodies import Edits, first_result, in_order
from onnx_reap.onnxio.conditionals import Moved, put_branch_back, take_apart
from onnx_reap.onnxio.extract import bodies_of, names_in_subgraphs
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.loops import Around, Unrolled, unroll
from onnx_reap.onnxio.renaming import Names
from onnx_reap.onnxio.rolling import put_body_back

Taken = Mapping[str, bool | int]
"""Whether the condition of an If holds, or how many trips a Loop or Scan makes, by its path.

That is the name of its first result; in a branch, the path of the If, and its place there.
"""

Followed = Moved | Unrolled


@dataclass(frozen=True)
class Unfolded:
    """A model in which nodes of bodies stand in the place of nodes that run them."""

    light: LightModel
    followed: tuple[Followed, ...]
    paths: Mapping[str, str]  # Of other nodes with bodies, by their first result as it is now


def with_bodies_in_front(light: LightModel, taken: Taken, draws: Callable[[str], bool]) -> Unfolded:
    """Put the nodes of bodies in the place of nodes that run them, those of Ifs in branches too.

    Initializers of a body become Constant nodes. Names that are used elsewhere too are replaced.

    Parameters
    ----------
    draws : callable
        Tells whether an operator draws random numbers.
    """
    names, constants = Names(light.graph), {tensor.name for tensor in light.graph.initializer}
    outputs = {value.name for value in light.graph.output}
    todo = deque((node, first_result(node)) for node in light.graph.node)
    nodes, found, met = list[NodeProto](), list[Followed](), set[str]()
    paths: dict[str, str] = {}
    while todo:
        node, path = todo.popleft()
        known = taken.get(path) if bodies_of(node) else None
        if known is None:
            nodes.append(node)
            constants.update(node.output if node.op_type == "Constant" else ())
            if path and bodies_of(node):
                paths[first_result(node)] = path
            continue
        met.add(path)
        if node.op_type == "If":
            moved, stays = take_apart(node, bool(known), names)
            found.append(moved)
            inside = [(each, f"{path}/{place}") for place, each in enumerate(moved.nodes)]
            todo.extendleft(reversed([*inside, *((each, "") for each in (*moved.joints, stays))]))
        else:
            read = outputs | _read([*nodes, *(each for each, _ in todo)])
            around = Around(names, light.opset, constants, read, draws)
            unrolled, trips = unroll(node, known, around)
            found.append(unrolled)
            nodes += trips
    if unmet := taken.keys() - met:
        raise ReapError("the model has no such node with a body", got=", ".join(sorted(unmet)))
    if not found:
        return Unfolded(light, (), paths)
    out = onnx.ModelProto()
    out.CopyFrom(light.proto)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return Unfolded(replace(light, proto=out), tuple(found), paths)


def _read(nodes: Sequence[NodeProto]) -> set[str]:
    return {name for node in nodes for name in (*node.input, *names_in_subgraphs(node))}


def with_bodies_inside(
    nodes: Sequence[NodeProto], followed: Sequence[Followed], edits: Edits
) -> list[NodeProto]:
    """Put nodes back into their bodies, with new ones that only serve these."""
    back = list(nodes)
    for each in reversed(followed):  # those inside of others first
        if isinstance(each, Moved):
            back = put_branch_back(back, each, edits)
        else:
            back = put_body_back(back, each, edits)
        back = in_order(back)
    return back
