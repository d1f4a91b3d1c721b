"""Names of nodes that are told apart."""

from collections import Counter
from collections.abc import Iterable, Set

import onnx_graphsurgeon as gs


def unique_keys(
    nodes: Iterable[gs.Node], inside: Set[str] = frozenset(), ends: Set[str] = frozenset()
) -> dict[int, str]:
    """Name every node, by its `id`: its own name, or its operator and place in the file.

    In a body, where places depend on what is followed, it is the name of the first output.
    Repeated names get a number.

    Parameters
    ----------
    inside : set of str
        What nodes of bodies make.
    ends : set of str
        Those of them that take the place of a node of the file.
    """
    seen: Counter[str] = Counter()
    keys, place = {}, 0
    for node in nodes:
        output = first_output(node)
        name = node.name or (output if output in inside else f"{node.op}_{place}")
        place += node.op != "Constant" and (output not in inside or output in ends)
        seen[name] += 1
        keys[id(node)] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return keys


def first_output(node: gs.Node) -> str:
    """Return the name of a node's first output that has one."""
    return next((str(tensor.name) for tensor in node.outputs if tensor.name), "")
