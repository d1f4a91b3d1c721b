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
