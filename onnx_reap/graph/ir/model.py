"""A loaded model: the file's proto, kept as it is, and a graph to work on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.calls import expand_calls
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.export import with_constants, without_content
from onnx_reap.graph.ir.names import first_output, unique_keys
from onnx_reap.graph.ir.order import captured_tensors, in_order, makers_of
from onnx_reap.graph.ir.origin import Origin
from onnx_reap.graph.ir.reading import constant_values, dense, read_graph
from onnx_reap.graph.ir.recurrent import hidden_states, with_hidden_states
from onnx_reap.graph.ir.requantise import requantised
from onnx_reap.graph.ir.sharing import still_equal, unshare
from onnx_reap.graph.ir.stored import Stored, find_stored, find_transposed
from onnx_reap.graph.rules.traits import NO_TRAITS, Trait, has_rule, traits_of
from onnx_reap.onnxio.bodies import Edits, with_constants_inside
from onnx_reap.onnxio.extract import extract, graphs, names_defined, names_in_subgraphs
from onnx_reap.onnxio.float32 import in_float32, other_types
from onnx_reap.onnxio.followed import Taken, with_bodies_in_front
from onnx_reap.onnxio.functions import Functions, functions_called
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.renaming import free_name


class Model:
    """A model and an editable graph of it.

    The graph holds every constant as a dense initializer: Constant nodes are absorbed, and constant
    subgraphs can be replaced by their values (`set_constants`). No array is ever changed in place,
    since graphs of one model share them. Where several nodes use one vector of
    parameters, each has a copy of its own. Calls of functions stand as the nodes of their bodies,
    branches that are known to be taken in front of their If, and trips of a known number in the
    place of their Loop or Scan.
    Nodes and calls that nobody touched are written back as they were, byte for byte.
    """

    def __init__(
        self,
        model: LightModel | onnx.ModelProto,
        expanded: Collection[str] = (),
        taken: Taken = MappingProxyType({}),
    ) -> None:
        self.light = LightModel.of(model)  # As given; never modified
        # Operators of ONNX's own that stand as their bodies though they have a rule
        self.expanded = frozenset(expanded)
        self.taken = taken  # What is known of nodes whose bodies stand in the graph
        unfolded = with_bodies_in_front(self.light, taken, lambda op: Trait.RANDOM in traits_of(op))
        light, proto = unfolded.light, unfolded.light.proto
        self.types = other_types(proto)  # Those that become float32 where the model is run
        self.graph = read_graph(proto)
        functions = Functions(proto, self._is_expanded, light.inferred_types)
        self.graph.nodes, sources, calls = expand_calls(self.graph, proto.graph.node, functions)
        self.origin = Origin.of(proto, sources, calls, unfolded)
        self._as_read: dict[str, gs.Constant] = {}  # Also those that only folded nodes read
        external = self.light.external()
        for name, constant in self.constants().items():
            if name in external:
                constant.values, constant.data_location = external[name], None
        self._absorb_constant_nodes()
        for sparse in proto.graph.sparse_initializer:
            if constant := self.constants().get(sparse.values.name):
                constant.values = dense(sparse)
        self._remember(self.constants())
        self.graph.nodes = in_order(self.graph.nodes)  # Topological
        # By `id(node)`
        self.keys = unique_keys(self.graph.nodes, self.origin.inside, self.origin.ends)
        self.sizes: dict[str, tuple[int, int]] = {}  # Of tensors, along the axis that was cut
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
    def runs_unlike_file(self) -> bool:
        """Whether nodes stand in the place of others: those of calls, or of bodies."""
        return bool(self.origin.calls or self.origin.followed)

    def anew(self, light: LightModel) -> "Model":
        """Read this model, or another with the same operators, in the same way."""
        return Model(light, self.expanded, self.taken)

    @property
    def nodes(self) -> list[gs.Node]:
        """The graph's nodes, in topological order."""
        return list(self.graph.nodes)

    def with_bodies(self) -> dict[str, gs.Node]:
        """Return the file's own If, Loop and Scan nodes, by their path, see `Taken`.

        Left out are Ifs behind one of their branches, and what stands in trips of a loop.
        """
        named = {first_output(node): node for node in self.graph.nodes}
        paths = self.origin.paths
        return {paths[name]: node for name, node in named.items() if name in paths}

    def node(self, key: str) -> gs.Node:
        """Return the node of that name in `keys`."""
        return next(node for node in self.graph.nodes if self.keys[id(node)] == key)

    def constants(self, nodes: Sequence[gs.Node] | None = None) -> dict[str, gs.Constant]:
        """Return the constants that outputs and nodes use, by name; those of bodies are theirs."""
        nodes = self.graph.nodes if nodes is None else nodes
        read = {t.name: t for node in nodes for t in node.inputs}
        read |= {t.name: t for t in self.graph.outputs}
        captured = captured_tensors(nodes).items()
        read |= {name: t for name, t in captured if name in self.origin.constants}
        return {name: t for name, t in read.items() if isinstance(t, gs.Constant)}

    def set_constants(self, values: Mapping[str, np.ndarray]) -> None:
        """Make tensors constants; nodes that only served them disappear."""
        tensors = self.graph.tensors()
        unread = []
        for name, array in values.items():
            old = tensors[name]
            new = gs.Constant(name, np.asarray(array, order="C"))
            self._remember({name: new})
            for node in list(old.outputs):
                node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
            unread += list(old.inputs)
        self.drop(unread)

    def _remember(self, constants: Mapping[str, gs.Constant]) -> None:
        self._as_read |= {
            name: gs.Constant(name, c.values, export_dtype=c.export_dtype)
            for name, c in constants.items()
        }

    def unused(self, name: str) -> str:
        """Return a name for a new tensor, `name` if it is free; it counts as taken from now on."""
        if not self._names:
            self._names = {n for g in graphs(self.light.graph) for n in names_defined(g)}
            self._names |= set(self.graph.tensors()) | set(captured_tensors(self.graph.nodes))
        free = free_name(name, self._names)
        self._names.add(free)
        return free

    def names(self) -> Callable[[], None]:
        """Return a function that frees the names which were given to tensors and nodes since."""
        given, keys = set(self._names), dict(self.keys)
        return lambda: vars(self).update(_names=set(given), keys=dict(keys))

    def insert(self, node: gs.Node, place: gs.Node, *, behind: bool = False) -> None:
        """Put a node in front of another one, or behind it."""
        # Nodes compare by content, so list.index would be slow, and could find an equal one.
        at = next(i for i, other in enumerate(self.graph.nodes) if other is place)
        self.graph.nodes.insert(at + behind, node)
        node.name = free_name(node.name, set(self.keys.values()))
        self.keys[id(node)] = node.name

    def drop(self, nodes: list[gs.Node]) -> None:
        """Remove nodes whose outputs nobody reads, and what served only them."""
        keep = {id(tensor) for tensor in self.graph.outputs}
        captured = captured_tensors(self.graph.nodes)
        dropped = set()
        while nodes:
            node = nodes.pop()
            read = any(t.outputs or id(t) in keep or t.name in captured for t in node.outputs)
            if read or id(node) in dropped or self.origin.is_joint(node):
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
        self._keep_stored(find_stored(self.graph.nodes, self.origin.sources, taken, self.unused))
        self._keep_stored(find_transposed(self.graph.nodes, self.stored, taken, self.unused))

    def _keep_stored(self, found: Mapping[str, Stored]) -> None:
        self.set_constants({name: stored.values for name, stored in found.items()})
        # An array may have been copied, and is known by its identity from now on.
        self.stored |= {n: replace(s, values=self._as_read[n].values) for n, s in found.items()}

    def unshare_parameters(self) -> None:
        """Give every use of a vector of parameters its own copy, lest equal values tie channels.

        Copies that are still equal when the model is written are written once.
        """
        taken = captured_tensors(self.graph.nodes).keys() | {t.name for t in self.graph.outputs}
        origin = self.origin
        new = unshare(self.graph.nodes, taken, self.unused, origin.joints, origin.in_first_trip)
        self.copied |= new
        for copy, name in new.items():
            if name in self.stored:
                self.stored[copy] = self.stored[name].renamed(copy, self.unused)

    def to_run(self) -> LightModel:
        """Write the graph as a model in float32, to run it."""
        return in_float32(self.to_light(), self.types)

    def to_light(self) -> LightModel:
        """Write the graph as a model with the interface and metadata of the original."""
        out = without_content(self.light.proto)
        out.graph.node.extend(self.node_proto(node) for node in self.graph.nodes)
        return with_constants(out, self.constants().values(), self.light)

    def written_once(self) -> dict[str, str]:
        """Return copies of constants with the names of those in whose place they are written."""
        return still_equal(self.copied, self.constants())

    def to_file(self) -> LightModel:
        """Write the graph as `to_light` does, with calls of functions where they still hold."""
        out = without_content(self.light.proto)
        constants = self.constants()
        same = self.written_once()
        written = requantised(self.nodes, self.stored, self.origin.constants - self.stored.keys())
        changed = {
            name
            for name, constant in constants.items()
            if name in self._as_read and constant.values is not self._as_read[name].values
        }
        # What is written as it was reads constants as the file has them, integers for instance.
        held = self._as_read | constants
        held |= {t.name: t for w in written.values() for t in w.inputs}

        def values(name: str) -> np.ndarray | None:
            return held[name].values if name in held else None

        edits = Edits(self.origin.made, changed, values, self.sizes)
        out.graph.node.extend(self.origin.nodes_of_file(self.nodes, same, written, edits))
        called = functions_called(out.graph.node, out.functions)
        for function in [f for f in out.functions if (f.domain, f.name) not in called]:
            out.functions.remove(function)
        read = {name for n in out.graph.node for name in (*n.input, *names_in_subgraphs(n))}
        read |= {tensor.name for tensor in self.graph.outputs}
        read -= written.keys()
        whole = with_constants(out, [t for n, t in held.items() if n in read], self.light)
        given = {tensor.name for tensor in self.light.graph.initializer}
        return with_constants_inside(whole, given) if self.origin.followed else whole

    def to_proto(self) -> onnx.ModelProto:
        """Write the graph as `to_file` does, with all weights in the proto."""
        return self.to_file().whole()

    def free_weights(self) -> None:
        """Let go of the weights of a graph; nodes refer to each other, so it stays for a while."""
        for constant in self.constants().values():
            constant.values = np.empty(0)
        self._as_read.clear()

    def part(self, inputs: Mapping[str, np.dtype], outputs: Sequence[str]) -> LightModel:
        """Write the part that computes tensors, none of them constants, from others, in float32."""
        return in_float32(self.part_as_given(inputs, outputs), self.types)

    def part_as_given(self, inputs: Mapping[str, np.dtype], outputs: Sequence[str]) -> LightModel:
        """Write such a part in the types that the model has."""
        shell = without_content(self.light.proto)
        hidden = {hidden_states(self.keys[id(node)]): node for node in self.graph.nodes}
        makers = makers_of(outputs, inputs, self.graph.nodes, hidden)  # all would take far longer
        written = ((self.node_proto(node), self.keys[id(node)]) for node in makers)
        shell.graph.node.extend(with_hidden_states(*each, outputs) for each in written)
        out = extract(shell, inputs, outputs)
        read = {n for node in out.graph.node for n in (*node.input, *names_in_subgraphs(node))}
        read = (read | set(outputs)) - inputs.keys()
        constants = [c for name, c in self.constants(makers).items() if name in read]
        fed = [value for value in out.graph.input if value.name in inputs]
        light = with_constants(out, constants, self.light)
        listed = {value.name for value in out.graph.input}
        out.graph.input.extend(value for value in fed if value.name not in listed)
        return light

    def node_proto(self, node: gs.Node) -> onnx.NodeProto:
        """Write a node; what nobody touched is as it was, byte for byte."""
        return self.origin.node_proto(node)
