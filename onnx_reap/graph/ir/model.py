"""A loaded model: the file's proto, kept as it is, and a graph to work on."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import chain, count

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.calls import expand_calls
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.export import node_proto, with_constants, without_content
from onnx_reap.graph.ir.order import captured_tensors, in_order
from onnx_reap.graph.ir.reading import constant_values, dense, read_graph
from onnx_reap.graph.ir.recurrent import with_hidden_states
from onnx_reap.graph.ir.requantise import Written, requantised, with_makers
from onnx_reap.graph.ir.sharing import still_equal, unshare
from onnx_reap.graph.ir.stored import Stored, find_stored, find_transposed
from onnx_reap.graph.rules.traits import NO_TRAITS, has_rule, traits_of
from onnx_reap.onnxio.dtypes import is_any_float
from onnx_reap.onnxio.extract import extract, names_in_subgraphs
from onnx_reap.onnxio.float32 import in_float32, other_types
from onnx_reap.onnxio.functions import Functions, functions_called
from onnx_reap.onnxio.light_model import LightModel


class Model:
    """A model and an editable graph of it.

    The graph holds every constant as a dense initializer: Constant nodes are absorbed, and constant
    subgraphs can be replaced by their values (`set_constants`). No array is ever changed in place,
    since graphs of one model share them. Where several nodes use one vector of
    parameters, each has a copy of its own. Calls of functions stand as the nodes of their bodies.
    Nodes and calls that nobody touched are written back as they were, byte for byte.
    """

    def __init__(self, model: LightModel | onnx.ModelProto, expanded: Collection[str] = ()) -> None:
        self.light = LightModel.of(model)  # As given; never modified
        proto = self.light.proto
        # Operators of ONNX's own that stand as their bodies though they have a rule
        self.expanded = frozenset(expanded)
        self.types = other_types(proto)  # Those that become float32 where the model is run
        self.graph = read_graph(proto)
        functions = Functions(proto, self._is_expanded, self.light.inferred_types)
        # Nodes are kept alive in `_source`, since their ids are keys.
        found = expand_calls(self.graph, proto.graph.node, functions)
        self.graph.nodes, self._source, self._calls = found
        self._folded: dict[str, np.ndarray] = {}
        self._given = _constants_of(proto.graph)
        external = self.light.external()
        for name, constant in self.constants().items():
            if name in external:
                constant.values, constant.data_location = external[name], None
        self._absorb_constant_nodes()
        for sparse in proto.graph.sparse_initializer:
            self.constants()[sparse.values.name].values = dense(sparse)
        self.graph.nodes = in_order(self.graph.nodes)  # Topological
        self.keys = _unique_keys(self.graph.nodes)  # By `id(node)`
        self._names: set[str] = set()
        self.stored: dict[str, Stored] = {}
        self._absorb_stored()
        self.copied: dict[str, str] = {}  # Originals, by the names of copies
        self.unshare_parameters()

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opset)

    @property
    def has_calls(self) -> bool:
        """Whether calls of functions stand as the nodes of their bodies."""
        return bool(self._calls)

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
            self._folded[name] = new.values
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

    def _is_expanded(self, op: str) -> bool:
        return op in self.expanded or (not has_rule(op) and traits_of(op) == NO_TRAITS)

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

    def _absorb_stored(self) -> None:
        """Let constants that the file holds as integers stand as real numbers."""
        taken = captured_tensors(self.graph.nodes).keys() | {t.name for t in self.graph.outputs}
        self._keep_stored(find_stored(self.graph.nodes, self._source, taken, self.unused))
        self._keep_stored(find_transposed(self.graph.nodes, self.stored, taken, self.unused))

    def _keep_stored(self, found: Mapping[str, Stored]) -> None:
        self.set_constants({name: stored.values for name, stored in found.items()})
        # An array may have been copied, and is known by its identity from now on.
        self.stored |= {n: replace(s, values=self._folded[n]) for n, s in found.items()}

    def unshare_parameters(self) -> None:
        """Give every use of a vector of parameters its own copy, lest equal values tie channels.

        Copies that are still equal when the model is written are written once.
        """
        taken = captured_tensors(self.graph.nodes).keys() | {t.name for t in self.graph.outputs}
        new = unshare(self.graph.nodes, taken, self.unused)
        self.copied |= new
        for copy, name in new.items():
            if name in self.stored:
                self.stored[copy] = self.stored[name].renamed(copy, self.unused)

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

    def written_once(self) -> dict[str, str]:
        """Return the copies of constants that equal their originals, whose names come second."""
        return still_equal(self.copied, self.constants())

    def to_file(self) -> LightModel:
        """Write the graph as `to_light` does, with calls of functions where they still hold."""
        out = without_content(self.light.proto)
        constants = self.constants()
        same = self.written_once()
        written = requantised(self.nodes, self.stored, self._given - self.stored.keys())
        nodes = self._nodes_with_calls(same, written)
        out.graph.node.extend(with_makers(nodes, written))
        # Integers as the file has them serve calls, and constants that nobody touched.
        held = constants | {t.name: t for s in self.stored.values() for t in s.inputs}
        held |= {t.name: t for w in written.values() for t in w.inputs}
        called = functions_called(out.graph.node, out.functions)
        for function in [f for f in out.functions if (f.domain, f.name) not in called]:
            out.functions.remove(function)
        read = {name for n in out.graph.node for name in (*n.input, *names_in_subgraphs(n))}
        read |= {tensor.name for tensor in self.graph.outputs}
        read -= written.keys()
        return with_constants(out, [t for n, t in held.items() if n in read], self.light)

    def _nodes_with_calls(
        self, same: Mapping[str, str], stored: Mapping[str, Written]
    ) -> list[onnx.NodeProto]:
        """Write all nodes, those of a call as the call where it still gives the same."""
        place = {id(node): number for number, node in enumerate(self.graph.nodes)}
        written = {n: self.node_proto(node, same) for n, node in enumerate(self.graph.nodes)}
        for call in self._calls:
            parts = sorted(place[key] for key in call.ids & place.keys())
            # With nodes of others in between, which may read what these make, no place is right.
            if not parts or parts[-1] - parts[0] >= len(parts):
                continue
            whole = call.is_whole(place.keys(), self._folded, same)
            proto = call.proto if whole else call.fused(place.keys(), stored, same)
            if proto is not None:
                for number in parts:
                    del written[number]
                written[parts[-1]] = proto
        return [written[number] for number in sorted(written)]

    def to_proto(self) -> onnx.ModelProto:
        """Write the graph as `to_file` does, with all weights in the proto."""
        return self.to_file().whole()

    def free_weights(self) -> None:
        """Let go of the weights of a graph that is used no more.

        Nodes and tensors refer to each other, so the graph itself stays for a while.
        """
        for constant in self.constants().values():
            constant.values = np.empty(0)

    def part(self, inputs: Mapping[str, np.dtype], outputs: Sequence[str]) -> LightModel:
        """Write the part that computes tensors from others, in float32; see `onnxio.extract`."""
        shell = without_content(self.light.proto)
        written = ((self.node_proto(node), self.keys[id(node)]) for node in self.graph.nodes)
        shell.graph.node.extend(with_hidden_states(*each, outputs) for each in written)
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

    def node_proto(self, node: gs.Node, same: Mapping[str, str] | None = None) -> onnx.NodeProto:
        """Write a node; what nobody touched is as it was, byte for byte.

        Parameters
        ----------
        same : mapping of str to str, optional
            Other names for some of its inputs.
        """
        source = self._source.get(id(node))
        return node_proto(node) if source is None else source.rewritten(same or {})


def is_floating(constant: gs.Constant) -> bool:
    """Whether a constant holds floating-point numbers, of any width."""
    return is_any_float(constant.dtype)


def _constants_of(graph: onnx.GraphProto) -> set[str]:
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    nodes = {y for node in graph.node if node.op_type == "Constant" for y in node.output}
    return sparse | nodes | {tensor.name for tensor in graph.initializer}


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
