"""A loaded model: the file's proto, kept as it is, and a graph to work on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from graphlib import CycleError, TopologicalSorter
from itertools import chain, count

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.export import Source, node_proto, with_constants, without_content
from onnx_reap.graph.ir.reading import constant_values, dense, read_graph
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import is_any_float
from onnx_reap.onnxio.extract import extract, names_in_subgraphs
from onnx_reap.onnxio.float32 import in_float32, other_types
from onnx_reap.onnxio.light_model import LightModel

STANDARD_DOMAINS = ("", "ai.onnx", None)


class Model:
    """A model and an editable graph of it.

    The graph holds every constant as a dense initializer: Constant nodes are absorbed, and constant
    subgraphs can be replaced by their values (`set_constants`). No array is ever changed in place,
    since graphs of one model share them. Layers that an exporter gave one
    vector of biases, all zero for instance, get a copy each. Nodes that nobody touched are
    written back as they were, byte for byte.
    """

    def __init__(self, model: LightModel | onnx.ModelProto) -> None:
        self.light = LightModel.of(model)  # As given; never modified
        proto = self.light.proto
        self.types = other_types(proto)  # Those that become float32 where the model is run
        self.graph = read_graph(proto)
        # Nodes are kept alive here, since their ids are keys.
        pairs = zip(self.graph.nodes, proto.graph.node, strict=True)
        self._source = {id(node): Source(node, dict(node.attrs), given) for node, given in pairs}
        self._given = _constants_of(proto.graph)
        external = self.light.external()
        for name, constant in self.constants().items():
            if name in external:
                constant.values, constant.data_location = external[name], None
        self._absorb_constant_nodes()
        for sparse in proto.graph.sparse_initializer:
            self.constants()[sparse.values.name].values = dense(sparse)
        self.graph.nodes = _in_order(self.graph.nodes)  # Topological
        self.keys = _unique_keys(self.graph.nodes)  # By `id(node)`
        self._names: set[str] = set()
        self._unshare_parameters()

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opset)

    @property
    def nodes(self) -> list[gs.Node]:
        """The graph's nodes, in topological order."""
        return list(self.graph.nodes)

    def node(self, key: str) -> gs.Node:
        """Return the node of that name in `keys`."""
        return next(node for node in self.graph.nodes if self.keys[id(node)] == key)

    def constants(self) -> dict[str, gs.Constant]:
        """Return the constants that nodes or outputs use, by name; those of bodies are theirs."""
        captured = captured_tensors(self.graph.nodes).items()
        own = self.graph.tensors() | {n: t for n, t in captured if n in self._given}
        return {name: t for name, t in own.items() if isinstance(t, gs.Constant)}

    def set_constants(self, values: Mapping[str, np.ndarray]) -> None:
        """Make tensors constants; nodes that only served them disappear."""
        tensors = self.graph.tensors()
        unread = []
        for name, array in values.items():
            old = tensors[name]
            new = gs.Constant(name, np.asarray(array, order="C"))
            for node in list(old.outputs):
                node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
            unread += list(old.inputs)
        self.drop(unread)

    def unused(self, name: str) -> str:
        """Return a name for a new tensor, `name` if it is free; it counts as taken from now on."""
        if not self._names:
            given = self.light.graph.node
            self._names = {n for node in given for n in (*node.input, *node.output)}
            self._names |= set(self.graph.tensors()) | set(captured_tensors(self.graph.nodes))
        free = _free_name(name, self._names)
        self._names.add(free)
        return free

    def insert(self, node: gs.Node, place: gs.Node, *, behind: bool = False) -> None:
        """Put a node in front of another one, or behind it."""
        # Nodes compare by content, so list.index would be slow, and could find an equal one.
        at = next(i for i, other in enumerate(self.graph.nodes) if other is place)
        self.graph.nodes.insert(at + behind, node)
        node.name = _free_name(node.name, set(self.keys.values()))
        self.keys[id(node)] = node.name

    def drop(self, nodes: list[gs.Node]) -> None:
        """Remove nodes whose outputs nobody reads, and what served only them."""
        keep = {id(tensor) for tensor in self.graph.outputs}
        captured = captured_tensors(self.graph.nodes)
        dropped = set()
        while nodes:
            node = nodes.pop()
            read = any(t.outputs or id(t) in keep or t.name in captured for t in node.outputs)
            if read or id(node) in dropped:
                continue
            nodes += [maker for tensor in node.inputs for maker in tensor.inputs]
            dropped.add(id(node))
            node.inputs.clear()
            node.outputs.clear()
        self.graph.nodes = [node for node in self.graph.nodes if id(node) not in dropped]

    def _absorb_constant_nodes(self) -> None:
        captured = captured_tensors(self.graph.nodes)
        outputs = {tensor.name for tensor in self.graph.outputs}
        absorbed = {}
        for node in self.graph.nodes:
            if node.op != "Constant" or node.domain not in STANDARD_DOMAINS or not node.outputs:
                continue
            values, name = constant_values(node), node.outputs[0].name
            if values is not None and name not in captured and name not in outputs:
                absorbed[name] = values
        self.set_constants(absorbed)

    def _unshare_parameters(self) -> None:
        """Give layers with other weights their own biases, lest equal values tie them together."""
        taken = captured_tensors(self.graph.nodes).keys() | {t.name for t in self.graph.outputs}
        copies: dict[tuple[str, ...], gs.Constant] = {}
        for node in self.graph.nodes:
            places = _parameters(node) if node.domain in STANDARD_DOMAINS else ()
            layer = tuple(tensor.name for tensor in node.inputs[1:])
            for index in (place for place in places if place < len(node.inputs)):
                shared = node.inputs[index]
                if not isinstance(shared, gs.Constant) or len(shared.shape) != 1:
                    continue
                use = (shared.name, *layer)
                if use not in copies and shared.name in taken:
                    copies[use] = gs.Constant(self.unused(shared.name), shared.values)
                taken.add(shared.name)
                node.inputs[index] = copies.setdefault(use, shared)

    def to_run(self) -> LightModel:
        """Write the graph as a model in float32, to run it."""
        return in_float32(self.to_light(), self.types)

    def to_light(self) -> LightModel:
        """Write the graph as a model with the interface and metadata of the original.

        Large weights lie beside the proto where those of the original do.
        """
        out = without_content(self.light.proto)
        out.graph.node.extend(self.node_proto(node) for node in self.graph.nodes)
        return with_constants(out, self.constants().values(), self.light)

    def to_proto(self) -> onnx.ModelProto:
        """Write the graph as `to_light` does, with all weights in the proto."""
        return self.to_light().whole()

    def free_weights(self) -> None:
        """Let go of the weights of a graph that is used no more.

        Nodes and tensors refer to each other, so the graph itself stays for a while.
        """
        for constant in self.constants().values():
            constant.values = np.empty(0)

    def part(self, inputs: Mapping[str, np.dtype], outputs: Sequence[str]) -> LightModel:
        """Write the part that computes tensors from others, in float32; see `onnxio.extract`."""
        shell = without_content(self.light.proto)
        shell.graph.node.extend(self.node_proto(node) for node in self.graph.nodes)
        out = extract(shell, inputs, outputs)
        nodes = out.graph.node
        read = {name for node in nodes for name in (*node.input, *names_in_subgraphs(node))}
        read = (read | set(outputs)) - inputs.keys()
        constants = [c for name, c in self.constants().items() if name in read]
        fed = [value for value in out.graph.input if value.name in inputs]
        light = with_constants(out, constants, self.light)
        listed = {value.name for value in out.graph.input}
        out.graph.input.extend(value for value in fed if value.name not in listed)
        return in_float32(light, self.types)

    def node_proto(self, node: gs.Node) -> onnx.NodeProto:
        """Write a node; what nobody touched is as it was, byte for byte."""
        source = self._source.get(id(node))
        return node_proto(node) if source is None else source.rewritten()


def is_floating(constant: gs.Constant) -> bool:
    """Whether a constant holds floating-point numbers, of any width."""
    return is_any_float(constant.dtype)


def _constants_of(graph: onnx.GraphProto) -> set[str]:
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    nodes = {y for node in graph.node if node.op_type == "Constant" for y in node.output}
    return sparse | nodes | {tensor.name for tensor in graph.initializer}


def captured_tensors(nodes: Iterable[gs.Node]) -> dict[str, gs.Tensor]:
    """Return the outer tensors that subgraphs (If, Loop, Scan) read, at any depth, by name."""
    found: dict[str, gs.Tensor] = {}
    for node in nodes:
        for body in (value for value in node.attrs.values() if isinstance(value, gs.Graph)):
            inner = body.tensors() | captured_tensors(body.nodes)
            own = {t.name for t in body.inputs}.union(t.name for n in body.nodes for t in n.outputs)
            found.update((name, t) for name, t in inner.items() if name not in own)
    return found


def _in_order(nodes: Sequence[gs.Node]) -> list[gs.Node]:
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


def _unique_keys(nodes: Iterable[gs.Node]) -> dict[int, str]:
    """Name every node: its own name, or its operator and place; repeated names get a number."""
    seen: Counter[str] = Counter()
    keys = {}
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op}_{index}"
        seen[name] += 1
        keys[id(node)] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return keys


def _free_name(name: str, taken: Set[str]) -> str:
    numbered = (f"{name}_{number}" for number in count(2))
    return next(n for n in chain([name], numbered) if n not in taken)


def _parameters(node: gs.Node) -> tuple[int, ...]:
    """Return the inputs that are vectors with an entry per channel, if the node has so many."""
    if node.op == "BatchNormalization":
        return 1, 2, 3, 4
    return (2,) if Trait.WEIGHTED in traits_of(node.op) else ()
