"""Calls of functions, which stand in the graph as the nodes of a body, and in a file as one."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnx_reap.graph.ir.export import Source
from onnx_reap.graph.ir.requantise import Written
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.functions import Functions
from onnx_reap.onnxio.integer_calls import BIASES


@dataclass(frozen=True)
class Call:
    """One node of the file, and those of the graph that it stands for."""

    proto: onnx.NodeProto
    parts: tuple[Source, ...]

    @property
    def ids(self) -> frozenset[int]:
        """The ids of the graph's nodes."""
        return frozenset(id(part.node) for part in self.parts)

    def is_whole(self, there: Set[int], changed: Set[str], same: Mapping[str, str]) -> bool:
        """Whether the call still gives what its parts give.

        Parameters
        ----------
        there : set of int
            The ids of the nodes that the graph still has.
        changed : set of str
            Constants that have other values than when they were read.
        same : mapping of str to str
            The names by which copies of constants are written.
        """
        own = {name for part in self.parts for name in part.proto.output}
        left, folded = [], set[str]()
        for part in self.parts:
            if id(part.node) in there:
                left.append(part)
            else:
                folded.update(part.proto.input)
        inside = {t.name for p in left for t in p.node.inputs if t.name in own}
        return not (inside | folded) & changed and all(
            part.rewritten(same) is part.proto for part in left
        )

    def fused(
        self, there: Set[int], written: Mapping[str, Written], same: Mapping[str, str]
    ) -> onnx.NodeProto | None:
        """Write a layer on integers as the one node that it was, with other weights.

        None where more than its weights changed.
        """
        key = (self.proto.domain, self.proto.op_type)
        left = [part for part in self.parts if id(part.node) in there]
        layers = [part for part in left if Trait.WEIGHTED in traits_of(part.proto.op_type)]
        if key not in BIASES or len(layers) != 1:
            return None
        around, layer = [part for part in left if part is not layers[0]], layers[0]
        names = [same.get(t.name, t.name) for t in layer.node.inputs[1:]]
        whole = all(part.rewritten(same) is part.proto for part in around)
        linked = [layer.node.inputs[0].name, layer.node.outputs[0].name]
        if linked != [layer.proto.input[0], layer.proto.output[0]] or not whole:
            return None
        bias = BIASES[key]
        if len(names) > (1 if bias is None else 2):
            return None
        if not all(name in written and len(written[name].nodes) == 1 for name in names):
            return None
        out = onnx.NodeProto()
        out.CopyFrom(self.proto)
        for place, tensor in zip(range(3, 6), written[names[0]].inputs, strict=False):
            out.input[place] = tensor.name
        if bias is not None and len(names) > 1:
            out.input.extend([""] * (bias + 1 - len(out.input)))
            out.input[bias] = written[names[1]].inputs[0].name
        del out.attribute[:]
        out.attribute.extend(layer.rewritten(same).attribute)
        return out


def expand_calls(
    graph: gs.Graph, protos: Sequence[onnx.NodeProto], functions: Functions
) -> tuple[list[gs.Node], dict[int, Source], list[Call]]:
    """Put the nodes of its function in the place of every call.

    Returns
    -------
    nodes : list of gs.Node
        All nodes of the graph, in order.
    sources : dict of int to Source
        By the id of a node, what it was in the file, or in the function.
    calls : list of Call
    """
    nodes: list[gs.Node] = []
    sources: dict[int, Source] = {}
    calls = []
    tensors = graph.tensors()
    for node, proto in zip(graph.nodes, protos, strict=True):
        body = functions.expand(proto)
        if body is None:
            parts = [Source(node, dict(node.attrs), proto)]
        else:
            node.inputs.clear()
            node.outputs.clear()
            parts = [_read(part, tensors, graph) for part in body]
            calls.append(Call(proto, tuple(parts)))
        nodes += [part.node for part in parts]
        sources |= {id(part.node): part for part in parts}
    return nodes, sources, calls


def _read(proto: onnx.NodeProto, tensors: dict[str, gs.Tensor], graph: gs.Graph) -> Source:
    node = OnnxImporter.import_node(proto, {}, tensors, graph.opset, graph.import_domains)
    return Source(node, dict(node.attrs), proto)
