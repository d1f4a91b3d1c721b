"""How many trips the Loops and Scans of a model make, where all samples agree."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import onnx
import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError
from onnx_reap.graph.batches import Probed
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.probing import few_and_all
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.bodies import first_result
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.extract import bodies_of, extract
from onnx_reap.onnxio.loops import integers
from onnx_reap.onnxio.session import run, session

LARGEST = 4096
"""Nodes of all trips of a loop, past which its body stays as it is."""

PREFIX = "onnx_reap.trips/"


def find_trips(model: Model, probed: Probed, providers: Sequence[str]) -> dict[str, int]:
    """Count the trips of the model's own Loops and Scans with layers in their bodies.

    Left out are those with results that are read and are no real numbers, on which shapes may
    depend, and with states that are no tensors.

    Returns
    -------
    dict of str to int
        Trips by the first result of the node.
    """
    probe, *_ = probed
    nodes = {
        name: node
        for name, node in model.with_bodies("Loop", "Scan").items()
        if _has_layers(node) and _is_real(node, model, probe)
    }
    light = model.to_run()
    proto = onnx.ModelProto()
    proto.CopyFrom(light.proto)
    protos = {first_result(node): node for node in proto.graph.node}
    counted = {n: _counted(protos[n], f"{PREFIX}{n}") for n in nodes if _holds_tensors(protos[n])}
    if not counted:
        return {}
    names = sorted({name for name, _ in counted.values()})
    part = replace(light, proto=extract(proto, {}, names))
    read = {value.name for value in part.graph.input}
    active = session(part, providers, optimize=False)
    seen: dict[str, set[int]] = {name: set() for name in counted}
    try:
        for feed in chain(*few_and_all(probed)):
            values = run(active, names, {name: x for name, x in feed.items() if name in read})
            for node, (name, axis) in counted.items():
                seen[node].add(int(values[name].shape[axis]))
            if all(len(each) > 1 for each in seen.values()):
                return {}
    except ReapError:
        return {}
    agreed = {name: each.pop() for name, each in seen.items() if len(each) == 1}
    return {
        name: trips
        for name, trips in agreed.items()
        if trips and trips * len(nodes[name].attrs["body"].nodes) <= LARGEST
    }


def _has_layers(node: gs.Node) -> bool:
    layers = Trait.WEIGHTED | Trait.RECURRENT
    return any(traits_of(inner.op) & layers for inner in node.attrs["body"].nodes)


def _is_real(node: gs.Node, model: Model, probe: Probe) -> bool:
    used = {t.name for t in model.graph.outputs} | captured_tensors(model.nodes).keys()
    read = [t.name for t in node.outputs if t.outputs or t.name in used]
    return all(name in probe.dtypes and is_float(probe.dtypes[name]) for name in read)


def _holds_tensors(node: onnx.NodeProto) -> bool:
    (body,) = bodies_of(node)
    return all(value.type.HasField("tensor_type") for value in (*body.input, *body.output))


def _counted(node: onnx.NodeProto, name: str) -> tuple[str, int]:
    """Return a tensor, and its axis with an entry for each trip; a Loop gets one as a result."""
    (body,) = bodies_of(node)
    if node.op_type == "Scan":
        (slices,) = integers(node, "num_scan_inputs")
        return node.input[len(node.input) - slices], integers(node, "scan_input_axes", slices)[0]
    body.node.append(onnx.helper.make_node("Identity", [body.input[0].name], [name]))
    body.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    node.output.extend([""] * (len(body.output) - 2 - len(node.output)))
    node.output.append(name)
    return name, 0
