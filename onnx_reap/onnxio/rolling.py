"""The trips of a Loop or Scan become its body again."""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.bodies import Edits, check_scope, first_result, is_as_it_was, serving
from onnx_reap.onnxio.extract import bodies_of, names_in_subgraphs
from onnx_reap.onnxio.loops import Unrolled
from onnx_reap.onnxio.renaming import Rename, free_name, renamed

Constant = Callable[[str], np.ndarray | None]


def put_body_back(nodes: Sequence[NodeProto], loop: Unrolled, edits: Edits) -> list[NodeProto]:
    """Put the nodes of the first trip back, see `onnx_reap.onnxio.followed`.

    Raises
    ------
    ReapError
        If another trip would not do the same.
    """
    joints = {name for joint in loop.joints for name in joint.output}
    own = {name for node in (*loop.nodes, *loop.later) for name in node.output if name}
    inside = serving(nodes, own, edits.made)
    _check_alike(loop, [nodes[place] for place in sorted(inside)], edits.constant)
    makers = {name: nodes[place] for place in inside for name in nodes[place].output if name}
    first = {name for node in loop.nodes for name in node.output if name}
    wanted = _behind([*first & makers.keys(), *loop.trips[0].exits], makers)
    body = [nodes[place] for place in sorted(inside) if first_result(nodes[place]) in wanted]
    reads = {first_result(node): node.input[0] for node in nodes if first_result(node) in joints}
    _check_joints(loop, reads)
    rolled = _rolled(loop, body, reads, edits)
    others = [node for place, node in enumerate(nodes) if place not in inside]
    check_scope(others, [nodes[place] for place in inside], joints)
    rest = [
        (place, node)
        for place, node in enumerate(nodes)
        if place not in inside and first_result(node) not in joints
    ]
    end = max(place for place, node in enumerate(nodes) if first_result(node) in joints)
    before = [node for place, node in rest if place < end]
    return [*before, rolled, *(node for place, node in rest if place > end)]


def _rolled(
    loop: Unrolled, nodes: Sequence[NodeProto], reads: Mapping[str, str], edits: Edits
) -> NodeProto:
    """Write the node with the inputs that its joints read, and such a body."""
    out = NodeProto()
    out.CopyFrom(loop.node)
    for place, reader in loop.readers.items():
        out.input[place] = reads[reader]
    (body,) = bodies_of(out)
    if not is_as_it_was(nodes, loop.nodes, edits.changed):
        _write(body, loop, nodes, edits.made)
    _correct_sizes(body, loop, edits)
    return out


def _correct_sizes(body: GraphProto, loop: Unrolled, edits: Edits) -> None:
    """Declare the sizes that inputs and outputs of a body have now."""
    if edits.changed:
        del body.value_info[:]
    first = loop.trips[0]
    for value, name in zip(body.input, first.entries, strict=True):
        _correct_size(value, name, edits)
    for value, name in zip(body.output, first.exits, strict=True):
        _correct_size(value, name, edits)


def _correct_size(value: ValueInfoProto, name: str, edits: Edits) -> None:
    declared = value.type.tensor_type.shape.dim
    held = edits.constant(name)
    sizes = dict([edits.sizes[name]] if name in edits.sizes else ())
    if held is not None:
        sizes = dict(enumerate(held.shape))
    for axis, size in sizes.items():
        if axis < len(declared) and declared[axis].HasField("dim_value"):
            declared[axis].dim_value = size


def _write(body: GraphProto, loop: Unrolled, nodes: Sequence[NodeProto], taken: Set[str]) -> None:
    """Give a body other nodes; names that are taken stay those of others."""
    del body.node[:], body.initializer[:], body.sparse_initializer[:]
    body.node.extend(renamed(node, _renaming(loop.kept)) for node in nodes)
    for value, name in zip(body.input, loop.body.entries, strict=True):
        value.name = name
    made = {name for node in nodes for name in node.output} | set(loop.body.entries)
    for value, name, inner in zip(body.output, loop.body.exits, loop.trips[0].exits, strict=True):
        value.name = name
        if name not in made:  # a constant of the graph around it, or a state that stays
            value.name = free_name(f"{name}/result", made | taken) if inner == name else name
            source = loop.kept.get(inner, inner)
            body.node.append(helper.make_node("Identity", [source], [value.name]))
            made.add(value.name)


def _behind(names: Sequence[str], makers: Mapping[str, NodeProto]) -> set[str]:
    """Return the first results of the nodes that some tensors are computed by."""
    todo, seen = list(names), set[str]()
    while todo:
        node = makers.get(todo.pop())
        if node is not None and first_result(node) not in seen:
            seen.add(first_result(node))
            todo += [*node.input, *names_in_subgraphs(node)]
    return seen


def _check_joints(loop: Unrolled, reads: Mapping[str, str]) -> None:
    """Refuse joints that read what no trip hands them."""
    exits = {name for trip in loop.trips for name in trip.exits}
    handed = {joint.output[0]: joint.input[0] for joint in loop.joints}
    if any(reads[name] != source for name, source in handed.items() if source in exits):
        raise AssertionError(f"{first_result(loop.node)}: other tensors pass from trip to trip")


def _check_alike(loop: Unrolled, nodes: Sequence[NodeProto], constant: Constant) -> None:
    """Refuse trips that don't compute the same from what they are handed."""
    formulas: dict[object, int] = {}  # Numbers, the same for what is computed in the same way
    numbers = {
        name: formulas.setdefault(("entry", place), len(formulas))
        for trip in loop.trips
        for place, name in enumerate(trip.entries)
    }

    def number(name: str) -> int:
        if name not in numbers:
            values = constant(name)
            key = name if values is None else _content(values)
            numbers[name] = formulas.setdefault(key, len(formulas))
        return numbers[name]

    for node in nodes:
        read = {name: f"{number(name)}" for name in (*node.input, *names_in_subgraphs(node))}
        content = renamed(node, _renaming(read))
        content.name = ""
        del content.output[:]
        key = content.SerializeToString(deterministic=True)
        for place, name in enumerate(node.output):
            numbers[name] = formulas.setdefault((key, place), len(formulas))
    if len({tuple(map(number, trip.exits)) for trip in loop.trips}) > 1:
        raise ReapError(
            f"{loop.node.op_type} {loop.node.name or first_result(loop.node)!r} can't be written: "
            "its trips would differ",
            hint="exclude its layers",
        )


def _content(values: np.ndarray) -> object:
    """Return what arrays of equal content have in common."""
    return values.dtype, values.shape, hashlib.sha256(values.tobytes()).digest()


def _renaming(names: Mapping[str, str]) -> Rename:
    return lambda name: names.get(name, name)
