"""What the nodes of a graph were in the file, and how they are written there again."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.calls import Call
from onnx_reap.graph.ir.export import Source, node_proto
from onnx_reap.graph.ir.reading import constants_of
from onnx_reap.graph.ir.requantise import Written, with_makers
from onnx_reap.onnxio.bodies import Edits
from onnx_reap.onnxio.conditionals import Moved
from onnx_reap.onnxio.followed import Followed, Unfolded, with_bodies_inside
from onnx_reap.onnxio.loops import Unrolled


@dataclass(frozen=True)
class Origin:
    """What a graph was read from."""

    sources: Mapping[int, Source]  # By the id of the node, which these keep alive
    calls: Sequence[Call]  # Of functions, which stand as nodes
    followed: Sequence[Followed]  # Nodes whose bodies stand in the graph
    paths: Mapping[str, str]  # Of other nodes with bodies, by their first result
    made: Set[str]  # Tensors that nodes made, but for those inside of calls
    constants: Set[str]

    @classmethod
    def of(
        cls,
        proto: onnx.ModelProto,
        sources: Mapping[int, Source],
        calls: Sequence[Call],
        unfolded: Unfolded,
    ) -> "Origin":
        """Describe what was read from a model whose bodies stand in it already."""
        made = {name for node in proto.graph.node for name in node.output if name}
        constants = constants_of(proto.graph)
        return cls(sources, calls, unfolded.followed, unfolded.paths, made, constants)

    @cached_property
    def joints(self) -> frozenset[str]:
        """What hands on the results of bodies, or what is handed from trip to trip."""
        nodes = (joint for each in self.followed for joint in each.joints)
        return frozenset(name for joint in nodes for name in joint.output)

    @cached_property
    def inside(self) -> frozenset[str]:
        """What nodes of bodies that are followed make, and joints."""
        nodes = (n for e in self.followed for n in (*e.nodes, *e.joints))
        later = (n for e in self.followed if isinstance(e, Unrolled) for n in e.later)
        return frozenset(name for node in (*nodes, *later) for name in node.output if name)

    @cached_property
    def ends(self) -> frozenset[str]:
        """The last joints of loops, which stand in their place."""
        loops = (each for each in self.followed if isinstance(each, Unrolled))
        return frozenset(each.joints[-1].output[0] for each in loops)

    @cached_property
    def settled(self) -> frozenset[str]:
        """First results of Ifs behind one of their branches."""
        return frozenset(each.results for each in self.followed if isinstance(each, Moved))

    @cached_property
    def in_first_trip(self) -> Mapping[str, str]:
        """The tensor of the first trip of a Loop or Scan, by the same one of another trip."""
        loops = [each for each in self.followed if isinstance(each, Unrolled)]
        return {name: first for each in loops for name, first in each.in_first_trip.items()}

    def is_settled(self, node: gs.Node) -> bool:
        """Whether a node is an If with one of its branches in front of it."""
        return any(tensor.name in self.settled for tensor in node.outputs)

    def is_joint(self, node: gs.Node) -> bool:
        """Whether a node hands on what a body makes: another branch or trip may make another."""
        return any(tensor.name in self.joints for tensor in node.outputs)

    def is_copy(self, node: gs.Node) -> bool:
        """Whether a node is one of a later trip, of which the file has that of the first."""
        return any(tensor.name in self.in_first_trip for tensor in node.outputs)

    def node_proto(self, node: gs.Node, same: Mapping[str, str] | None = None) -> onnx.NodeProto:
        """Write a node; what nobody touched is as it was, byte for byte.

        Parameters
        ----------
        same : mapping of str to str, optional
            Other names for some of its inputs.
        """
        source = self.sources.get(id(node))
        return node_proto(node) if source is None else source.rewritten(same or {})

    def nodes_of_file(
        self,
        nodes: Sequence[gs.Node],
        same: Mapping[str, str],
        stored: Mapping[str, Written],
        edits: Edits,
    ) -> list[onnx.NodeProto]:
        """Write the nodes of a graph, with calls and bodies where they were.

        Parameters
        ----------
        same : mapping of str to str
            The names by which copies of constants are written.
        stored : mapping of str to Written
            Constants that are written as integers.
        edits : Edits
            Constants that changed are also those of nodes that were folded.
        """
        protos = with_makers(self._with_calls(nodes, edits.changed, same, stored), stored)
        return with_bodies_inside(protos, self.followed, edits)

    def _with_calls(
        self,
        nodes: Sequence[gs.Node],
        changed: Set[str],
        same: Mapping[str, str],
        stored: Mapping[str, Written],
    ) -> list[onnx.NodeProto]:
        """Write all nodes, those of a call as the call where it still gives the same."""
        place = {id(node): number for number, node in enumerate(nodes)}
        written = {number: self.node_proto(node, same) for number, node in enumerate(nodes)}
        for call in self.calls:
            parts = sorted(place[key] for key in call.ids & place.keys())
            # With nodes of others in between, which may read what these make, no place is right.
            if not parts or parts[-1] - parts[0] >= len(parts):
                continue
            whole = call.is_whole(place.keys(), changed, same)
            proto = call.proto if whole else call.fused(place.keys(), stored, same)
            if proto is not None:
                for number in parts:
                    del written[number]
                written[parts[-1]] = proto
        return [written[number] for number in sorted(written)]
