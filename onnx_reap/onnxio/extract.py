"""Parts of models: what computes some tensors from others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from onnx_reap.onnxio.dtypes import to_onnx


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Copy a model so that it returns exactly the named tensors."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    declared = {value.name: value for value in model.graph.output}
    del out.graph.output[:]
    out.graph.output.extend(declared.get(n) or onnx.ValueInfoProto(name=n) for n in names)
    return out


def extract(
    model: onnx.ModelProto, inputs: Mapping[str, np.dtype], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Cut out the part of a model that computes `outputs` from `inputs`.

    Parameters
    ----------
    model : onnx.ModelProto
        Its graph inputs that the part still needs stay inputs.
    inputs : mapping of str to numpy.dtype
        Tensors that will be fed, with their types.
    """
    graph = model.graph
    place = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needed: set[str] = set()
    todo = list(outputs)
    wanted: set[int] = set()
    while todo:
        name = todo.pop()
        if name in needed or name in inputs:
            continue
        needed.add(name)
        if name in place and place[name] not in wanted:
            wanted.add(place[name])
            node = graph.node[place[name]]
            todo += [n for n in node.input if n]
            todo += names_in_subgraphs(node)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = graph.name or "part"
    part.graph.node.extend(graph.node[i] for i in sorted(wanted))
    part.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
    constant = {t.name for t in part.graph.initializer} if model.ir_version >= 4 else set()
    part.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, to_onnx(dtype), None)
        for name, dtype in inputs.items()
    )
    part.graph.input.extend(i for i in graph.input if i.name in needed and i.name not in constant)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside a node (If, Loop, Scan)."""
    single = [a.g for a in node.attribute if a.HasField("g")]
    return single + [g for a in node.attribute for g in a.graphs]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the bodies of its nodes (If, Loop, Scan), at any depth."""
    yield graph
    for body in (body for node in graph.node for body in bodies_of(node)):
        yield from graphs(body)


def names_in_subgraphs(node: onnx.NodeProto) -> list[str]:
    """Return the outer tensors that the bodies of a node (If, Loop, Scan) read, at any depth."""
    return [name for body in bodies_of(node) for name in names_captured(body)]


def names_captured(body: onnx.GraphProto) -> list[str]:
    """Return the outer tensors that a body reads, at any depth."""
    read = [n for inner in body.node for n in (*inner.input, *names_in_subgraphs(inner)) if n]
    own = set(names_defined(body))
    return [n for n in (*read, *(value.name for value in body.output)) if n not in own]


def names_defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the tensors that are a graph's own: inputs, constants, and what its nodes make."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)
