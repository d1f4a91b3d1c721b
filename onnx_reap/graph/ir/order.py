"""The order of a graph's nodes, and what they read by way of bodies."""

from collections.abc import Iterable, Mapping, Sequence, Set
from graphlib import CycleError, TopologicalSorter

import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError


def captured_tensors(nodes: Iterable[gs.Node]) -> dict[str, gs.Tensor]:
    """Return the outer tensors that subgraphs (If, Loop, Scan) read, at any depth, by name."""
    found: dict[str, gs.Tensor] = {}
    for node in nodes:
        for body in (value for value in node.attrs.values() if isinstance(value, gs.Graph)):
            inner = body.tensors() | captured_tensors(body.nodes)
            own = {t.name for t in body.inputs}.union(t.name for n in body.nodes for t in n.outputs)
            found.update((name, t) for name, t in inner.items() if name not in own)
    return found


def affected_tensors(nodes: Iterable[gs.Node], changed: Set[str]) -> set[str]:
    """Return all tensors that depend on the given ones, themselves included; nodes are in order."""
    affected = set(changed)
    for node in nodes:
        inputs = {t.name for t in node.inputs} | set(captured_tensors([node]))
        if inputs & affected:
            affected |= {t.name for t in node.outputs if t.name}
    return affected


def makers_of(
    wanted: Iterable[str],
    given: Iterable[str],
    nodes: Sequence[gs.Node],
    more: Mapping[str, gs.Node],
) -> list[gs.Node]:
    """Return the nodes that compute tensors from given ones, in their order.

    Parameters
    ----------
    more : mapping of str to gs.Node
        What nodes make besides their outputs.
    """
    maker = {**more, **{t.name: node for node in nodes for t in node.outputs if t.name}}
    todo, seen, found = [*wanted], set(given), set[int]()
    while todo:
        name = todo.pop()
        if name not in seen and name in maker and id(maker[name]) not in found:
            node = maker[name]
            found.add(id(node))
            todo += [*(t.name for t in node.inputs), *captured_tensors([node])]
        seen.add(name)
    return [node for node in nodes if id(node) in found]


def in_order(nodes: Sequence[gs.Node]) -> list[gs.Node]:
    """Sort nodes so that makers precede readers; a sorted list stays as it is."""
    made: set[int] = set()
    needs = {id(node): [id(maker) for maker in _makers(node)] for node in nodes}
    for node in nodes:
        if not made.issuperset(needs[id(node)]):
            by_id = {id(n): n for n in nodes}
            try:
                order = list(TopologicalSorter(needs).static_order())
            except CycleError as error:
                raise _cycle([by_id[key] for key in error.args[1]]) from None
            return [by_id[key] for key in order if key in by_id]
        made.add(id(node))
    return list(nodes)


def _cycle(nodes: Sequence[gs.Node]) -> ReapError:
    return ReapError(
        "the model's nodes read what is made of their own outputs",
        got=" <- ".join(node.name or node.op for node in nodes),
        expected="a graph without cycles",
    )


def _makers(node: gs.Node) -> list[gs.Node]:
    tensors = [*node.inputs, *captured_tensors([node]).values()]
    return [maker for tensor in tensors for maker in tensor.inputs]
