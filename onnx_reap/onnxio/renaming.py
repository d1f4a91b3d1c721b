"""Names that are free, and copies of nodes with other names of tensors."""

from collections import Counter
from collections.abc import Callable, Mapping, Set
from itertools import chain, count

from onnx import AttributeProto, GraphProto, NodeProto

from onnx_reap.onnxio.extract import graphs, names_defined

Rename = Callable[[str], str]
"""Gives the new name of a tensor, and the empty name of an input that is left out for itself."""


def renamed(
    node: NodeProto, rename: Rename, given: Mapping[str, AttributeProto] | None = None
) -> NodeProto:
    """Copy a node with other names of tensors, also in its bodies.

    Parameters
    ----------
    given : mapping of str to AttributeProto, optional
        Values for attributes that refer to those of a call.
    """
    new = NodeProto()
    new.CopyFrom(node)
    del new.attribute[:], new.input[:], new.output[:]
    new.input.extend(rename(name) for name in node.input)
    new.output.extend(rename(name) for name in node.output)
    for attribute in node.attribute:
        refers = attribute.ref_attr_name if given is not None else ""
        source = (given or {}).get(refers) if refers else attribute
        if source is None:
            continue  # the call leaves it to the operator's default
        kept = new.attribute.add()
        kept.CopyFrom(source)
        kept.name = attribute.name
        if kept.HasField("g"):
            _rename_body(kept.g, rename, given)
    return new


def _rename_body(
    body: GraphProto, rename: Rename, given: Mapping[str, AttributeProto] | None
) -> None:
    """Rename all tensors in the body of an If, Loop or Scan, in place."""
    for value in (*body.input, *body.output, *body.initializer, *body.value_info):
        value.name = rename(value.name)
    for sparse in body.sparse_initializer:
        sparse.values.name = rename(sparse.values.name)
    nodes = [renamed(node, rename, given) for node in body.node]
    del body.node[:]
    body.node.extend(nodes)


def free_name(name: str, taken: Set[str]) -> str:
    """Return a name that isn't taken: the given one, or the same with a number."""
    numbered = (f"{name}_{number}" for number in count(2))
    return next(n for n in chain([name], numbered) if n not in taken)


class Names:
    """The names of all tensors of a model, those of bodies too."""

    def __init__(self, graph: GraphProto) -> None:
        self._defined = Counter(name for each in graphs(graph) for name in names_defined(each))
        self._nodes = {node.name for node in graph.node}

    def without_clashes(self, body: GraphProto) -> Callable[[str], str]:
        """Return new names for the tensors of a body that have the names of others."""
        own = dict.fromkeys(names_defined(body))
        new = {name: self.unused(name) for name in own if self._defined[name] > 1}
        return lambda name: new.get(name, name)

    def unused(self, name: str) -> str:
        """Return a name that no tensor has, and count it as taken from now on."""
        free = free_name(name, self._defined.keys())
        self._defined[free] += 1
        return free

    def unused_by_nodes(self, name: str) -> str:
        """Return a name that no node in front has, and count it as taken; none stays none."""
        free = name and free_name(name, self._nodes)
        self._nodes.add(free)
        return free
