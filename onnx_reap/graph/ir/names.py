"""Names of nodes that are told apart."""

from collections import Counter
from collections.abc import Iterable

import onnx_graphsurgeon as gs


def unique_keys(nodes: Iterable[gs.Node]) -> dict[int, str]:
    """Name every node, by its `id`: its own name, or its operator and place.

    Repeated names get a number.
    """
    seen: Counter[str] = Counter()
    keys = {}
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op}_{index}"
        seen[name] += 1
        keys[id(node)] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return keys


def first_output(node: gs.Node) -> str:
    """Return the name of a node's first output that has one."""
    return next((str(tensor.name) for tensor in node.outputs if tensor.name), "")
