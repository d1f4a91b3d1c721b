"""Operators that are functions: what defines them, and the nodes that a call of one stands for.

A call can be one of the model's own functions, of an operator that onnxruntime's optimizer writes
(see `contrib`), or of an operator of ONNX whose schema tells a body.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

import onnx
from onnx import FunctionProto, NodeProto

from onnx_reap.onnxio.contrib import definition
from onnx_reap.onnxio.renaming import renamed

Types = Mapping[str, onnx.TypeProto]

OWN = ("", "ai.onnx")
DEPTH = 16  # calls inside of calls; more are left as they are


class Functions:
    """What the operators of one model are defined by.

    Parameters
    ----------
    model : onnx.ModelProto
        Its functions and opsets are read.
    wanted : callable
        Tells whether an operator of ONNX's own is to be taken for its body.
    types : callable
        Returns the types of tensors as far as they are known, with other nodes instead of the
        model's if it is given any; only called where a body depends on them.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        wanted: Callable[[str], bool],
        types: Callable[[Sequence[NodeProto] | None], Types],
    ) -> None:
        self.opset = max((e.version for e in model.opset_import if e.domain in OWN), default=1)
        self._domains = {entry.domain for entry in model.opset_import} | {*OWN}
        self._local = {(f.domain, f.name): f for f in model.functions}
        self._wanted, self._types = wanted, types
        self._known: dict[str, onnx.TypeProto] | None = None
        self._before: list[NodeProto] = []  # What the nodes so far stand for
        self._more = False  # Whether calls among them tell more than is known

    def expand(self, node: NodeProto, depth: int = 0) -> list[NodeProto] | None:
        """Return the nodes that a call stands for, calls among them expanded; None if it is none.

        The nodes of a model are to be given in order, so that types are known behind calls, too.
        Names of tensors and nodes inside start with the name of the call's first output.
        """
        function = self._definition(node) if depth < DEPTH and any(node.output) else None
        nodes = None
        if function is not None and self._fits(function):
            inside = _instance(node, function)
            nodes = [part for inner in inside for part in self.expand(inner, depth + 1) or [inner]]
        if depth == 0:
            self._before += nodes or [node]
            self._more |= nodes is not None
        return nodes

    def _types_of(self, node: NodeProto) -> Types:
        """Return the types of tensors, those that a node takes among them if they can be known."""
        if self._known is None:
            self._known = dict(self._types(None))
        if self._more and any(name and name not in self._known for name in node.input):
            self._known |= self._types(self._before)
            self._more = False
        return self._known

    def _definition(self, node: NodeProto) -> FunctionProto | None:
        local = self._local.get((node.domain, node.op_type))
        known = local or definition(node, self.opset, partial(self._types_of, node))
        own = node.domain in OWN and self._wanted(node.op_type)
        return self._body(node) if known is None and own else known

    def _body(self, node: NodeProto) -> FunctionProto | None:
        """Return the body that a schema tells, the newest one for the model's opset."""
        try:
            schema: Any = onnx.defs.get_schema(node.op_type, self.opset, "")
        except onnx.defs.SchemaError:
            return None
        fixed = [v for v in schema.function_opset_versions if v <= self.opset]
        versions = schema.context_dependent_function_opset_versions
        by_types = [v for v in versions if v <= self.opset]
        if fixed:
            written = schema.get_function_with_opset_version(max(fixed))
        elif by_types and (kinds := self._kinds(node)) is not None:
            written = schema.get_context_dependent_function_with_opset_version(
                max(by_types), node.SerializeToString(), kinds
            )
        else:
            return None
        function = FunctionProto.FromString(written)
        defaults = (attribute.default_value for attribute in schema.attributes.values())
        function.attribute_proto.extend(value for value in defaults if value.type)
        return function if function.node and not _has_bodies(function.node) else None

    def _kinds(self, node: NodeProto) -> list[bytes] | None:
        """Return the types of a node's inputs as bytes; None where one is unknown."""
        known = self._types_of(node)
        if not all(name in known for name in node.input if name):
            return None
        return [known[n].SerializeToString() if n else b"" for n in node.input]

    def _fits(self, function: FunctionProto) -> bool:
        """Whether the model imports what nodes inside are of, and they mean the same there."""
        same = all(
            _signature(node.op_type, entry.version) == _signature(node.op_type, self.opset)
            for entry in function.opset_import
            if entry.domain in OWN
            for node in function.node
            if node.domain in OWN
        )
        return same and {node.domain for node in function.node} <= self._domains


def _signature(op: str, opset: int) -> object:
    """Return what a version of an operator takes: later ones that only add types take the same."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    inputs = tuple(value.name for value in schema.inputs)
    defaults = {
        name: a.default_value.SerializeToString(deterministic=True)
        for name, a in schema.attributes.items()
    }
    return inputs, len(schema.outputs), defaults


def _has_bodies(nodes: Sequence[NodeProto]) -> bool:
    return any(attribute.HasField("g") for node in nodes for attribute in node.attribute)


def _instance(call: NodeProto, function: FunctionProto) -> list[NodeProto]:
    """Copy a function's nodes, with the tensors and attributes of a call."""
    prefix = next(name for name in call.output if name)
    results = [(i, o) for i, o in zip(function.output, call.output, strict=False) if o]
    taken = dict.fromkeys(function.input, "") | dict(zip(function.input, call.input, strict=False))
    names = dict(results) | taken  # An input that is also a result keeps the name it comes with
    given = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
    rename = _Renaming(names, prefix)
    stem = call.name or prefix
    nodes = []
    for number, node in enumerate(function.node):
        new = renamed(node, rename, given)
        new.name = f"{stem}/{node.name or f'{node.op_type}_{number}'}"
        nodes.append(new)
    for inner, outer in results:
        if inner in taken:
            name = f"{stem}/Identity_{len(nodes)}"
            nodes.append(onnx.helper.make_node("Identity", [taken[inner]], [outer], name))
    return nodes


class _Renaming:
    """Names inside a function, and what they become outside."""

    def __init__(self, names: Mapping[str, str], prefix: str) -> None:
        self._names, self._prefix = names, prefix

    def __call__(self, name: str) -> str:
        return self._names.get(name, f"{self._prefix}/{name}") if name else ""


def functions_called(
    nodes: Sequence[NodeProto], functions: Sequence[FunctionProto]
) -> Set[tuple[str, str]]:
    """Return domain and name of the functions that nodes call, directly or not."""
    by_name = {(f.domain, f.name): f for f in functions}
    found: set[tuple[str, str]] = set()
    todo: list[Any] = list(nodes)
    while todo:
        node = todo.pop()
        key = (node.domain, node.op_type)
        if key in by_name and key not in found:
            found.add(key)
            todo += by_name[key].node
        todo += [inner for a in node.attribute if a.HasField("g") for inner in a.g.node]
    return found
