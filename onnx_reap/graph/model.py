"""A loaded model: the file's proto, kept as it is, and a graph to work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from ..errors import ReapError

STANDARD_DOMAINS = ("", "ai.onnx", None)


class Model:
    """A model and an editable graph of it.

    The graph holds every constant as an initializer: Constant nodes are absorbed, and constant
    subgraphs can be replaced by their values (`set_constant`). Nodes that nobody touched are written
    back as they were, byte for byte.

    Attributes
    ----------
    proto : onnx.ModelProto
        The model as given. Never modified.
    graph : onnx_graphsurgeon.Graph
        Nodes in topological order.
    keys : dict[int, str]
        A unique name for each node, by `id(node)`.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = gs.import_onnx(proto)
        self._source = {id(n): p for n, p in zip(self.graph.nodes, proto.graph.node, strict=True)}
        self._pristine = {id(node): _Snapshot(node) for node in self.graph.nodes}
        self._absorb_constant_nodes()
        self.graph.nodes = _in_order(self.graph.nodes)
        self.keys = _unique_keys(self.graph.nodes)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return int(self.graph.opset)

    @property
    def nodes(self) -> list[gs.Node]:
        """The graph's nodes, in topological order."""
        return list(self.graph.nodes)

    def constants(self) -> dict[str, gs.Constant]:
        """Return the constants that nodes or outputs use, by name."""
        tensors = self.graph.tensors() | captured_tensors(self.graph.nodes)
        return {name: t for name, t in tensors.items() if isinstance(t, gs.Constant)}

    def set_constant(self, name: str, values: np.ndarray) -> None:
        """Make the tensor called `name` a constant; nodes that only served it disappear."""
        old = self.graph.tensors()[name]
        new = gs.Constant(name, np.array(values, order="C"))
        for node in list(old.outputs):
            node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
        self._drop(list(old.inputs))

    def _drop(self, nodes: list[gs.Node]) -> None:
        """Remove nodes whose outputs nobody reads, and what served only them."""
        keep = {id(tensor) for tensor in self.graph.outputs}
        captured = captured_tensors(self.graph.nodes)
        while nodes:
            node = nodes.pop()
            read = any(t.outputs or id(t) in keep or t.name in captured for t in node.outputs)
            if read or not node.outputs:
                continue
            nodes += [maker for tensor in node.inputs for maker in tensor.inputs]
            self.graph.nodes.remove(node)
            node.inputs.clear()
            node.outputs.clear()

    def _absorb_constant_nodes(self) -> None:
        captured = captured_tensors(self.graph.nodes)
        outputs = {tensor.name for tensor in self.graph.outputs}
        for node in [n for n in self.graph.nodes if n.op == "Constant" and n.domain in STANDARD_DOMAINS]:
            values = _constant_values(node)
            name = node.outputs[0].name
            if values is not None and name not in captured and name not in outputs:
                self.set_constant(name, values)

    def to_proto(self) -> onnx.ModelProto:
        """Write the graph as a model with the interface and metadata of the original."""
        out = onnx.ModelProto()
        out.CopyFrom(_without_content(self.proto))
        out.graph.node.extend(self._export_nodes())
        tensors = self.constants()
        out.graph.initializer.extend(
            OnnxExporter.export_tensor_proto(tensor)
            for tensor in tensors.values()
            if not isinstance(tensor._values, gs.ir.tensor.SparseValues)
        )
        out.graph.sparse_initializer.extend(self.proto.graph.sparse_initializer)
        _declare_initializer_inputs(out, self.proto)
        return out

    def _export_nodes(self) -> Iterable[onnx.NodeProto]:
        for node in self.graph.nodes:
            snapshot = self._pristine.get(id(node))
            same = snapshot is not None and snapshot.matches(node)
            yield self._source[id(node)] if same else OnnxExporter.export_node(node)


def load(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Read a model; a path is read with its external data, a proto is taken as it is.

    Raises
    ------
    ReapError
        If the file is missing, unreadable or not an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    path = Path(source)
    try:
        proto = onnx.load(path)
    except FileNotFoundError as error:
        raise ReapError(
            f"model file {path}: not found", hint=f"check {error.filename or path}"
        ) from None
    except OSError as error:
        raise ReapError(f"model file {path}: can't be read", got=str(error.strerror)) from None
    except Exception as error:  # protobuf's DecodeError has no public home
        raise ReapError(
            f"model file {path}: not an ONNX model",
            got=f"{type(error).__name__}: {error}",
            expected="a file that onnx.load reads",
        ) from None
    if not proto.graph.node:
        raise ReapError(
            f"model file {path}: holds no nodes",
            got=f"{path.stat().st_size} bytes without a graph",
            expected="an ONNX model",
        )
    return proto


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
            order = TopologicalSorter(needs).static_order()
            return [by_id[key] for key in order if key in by_id]
        made.add(id(node))
    return list(nodes)


def _makers(node: gs.Node) -> list[gs.Node]:
    tensors = [*node.inputs, *captured_tensors([node]).values()]
    return [maker for tensor in tensors for maker in tensor.inputs]


class _Snapshot:
    """What a node was on arrival; attributes are replaced, never edited, so identity tells."""

    def __init__(self, node: gs.Node) -> None:
        self._names = _wiring(node)
        self._attributes = dict(node.attrs)

    def matches(self, node: gs.Node) -> bool:
        """Tell whether the node still is what it was."""
        return (
            self._names == _wiring(node)
            and self._attributes.keys() == node.attrs.keys()
            and all(value is node.attrs[name] for name, value in self._attributes.items())
        )


def _wiring(node: gs.Node) -> tuple[object, ...]:
    return (node.op, [t.name for t in node.inputs], [t.name for t in node.outputs])


def _constant_values(node: gs.Node) -> np.ndarray | None:
    if isinstance(tensor := node.attrs.get("value"), gs.Constant):
        return None if isinstance(tensor._values, gs.ir.tensor.SparseValues) else tensor.values
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for key in (name, name + "s"):
            if key in node.attrs:
                return np.asarray(node.attrs[key], dtype)
    return None


def _unique_keys(nodes: Iterable[gs.Node]) -> dict[int, str]:
    """Name every node: its own name, or its operator and place; repeated names get a number."""
    seen: Counter[str] = Counter()
    keys = {}
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op}_{index}"
        seen[name] += 1
        keys[id(node)] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return keys


def _without_content(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without nodes, weights and shape annotations (these would be stale)."""
    shell = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(shell, field.name).extend(value)
        else:
            setattr(shell, field.name, value)
    graph = proto.graph
    shell.graph.name = graph.name
    shell.graph.doc_string = graph.doc_string
    shell.graph.input.extend(graph.input)
    shell.graph.output.extend(graph.output)
    shell.graph.metadata_props.extend(graph.metadata_props)
    return shell


def _declare_initializer_inputs(out: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Give initializers that are listed as inputs their new shapes; IR 3 lists every one."""
    tensors = {tensor.name: tensor for tensor in out.graph.initializer}
    was_initializer = {tensor.name for tensor in original.graph.initializer}
    inputs = [i for i in out.graph.input if i.name in tensors or i.name not in was_initializer]
    listed = {i.name for i in inputs}
    if out.ir_version < 4:
        inputs += [onnx.ValueInfoProto(name=name) for name in tensors if name not in listed]
        listed |= set(tensors)
    declared = [
        onnx.helper.make_tensor_value_info(i.name, tensors[i.name].data_type, tensors[i.name].dims)
        if i.name in tensors
        else i
        for i in inputs
    ]
    del out.graph.input[:]
    out.graph.input.extend(declared)
