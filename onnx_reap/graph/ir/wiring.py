"""Who makes and who reads each tensor of a graph."""

from collections.abc import Iterable, Set

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors

Edge = tuple[str, int]
"""A node's key and the index of one of its inputs."""

CAPTURED = -1
"""In place of an input's index: a body of the node reads the tensor."""


class Wiring:
    """Nodes by their place in topological order, and the maker and readers of every tensor."""

    def __init__(self, model: Model) -> None:
        self.nodes = model.nodes
        self.keys = [model.keys[id(node)] for node in self.nodes]
        self.place = {key: place for place, key in enumerate(self.keys)}
        self.maker: dict[str, int] = {}
        self.readers: dict[str, list[tuple[int, int]]] = {}  # Places, and which inputs
        self._outputs = {tensor.name for tensor in model.graph.outputs}
        for place, node in enumerate(self.nodes):
            self.maker |= {tensor.name: place for tensor in node.outputs if tensor.name}
            read = [(t.name, number) for number, t in enumerate(node.inputs) if t.name]
            read += [(name, CAPTURED) for name in captured_tensors([node])]
            for name, number in read:
                self.readers.setdefault(name, []).append((place, number))

    def reaches_outputs(self, places: Iterable[int], closed: Set[Edge]) -> bool:
        """Whether a path from one of some nodes to the outputs crosses no closed edge.

        What nobody reads counts as an output.
        """
        last = max((self.place[key] for key, _ in closed), default=-1)
        todo, seen = list(places), set[int]()
        while todo:
            place = todo.pop()
            if place >= last:  # nothing that is closed lies behind
                return True
            if place in seen:
                continue
            seen.add(place)
            made = [tensor.name for tensor in self.nodes[place].outputs]
            readers = [reader for name in made for reader in self.readers.get(name, ())]
            if not readers or not self._outputs.isdisjoint(made):
                return True
            todo += [p for p, number in readers if (self.keys[p], number) not in closed]
        return False
