"""How many trips the Loops and Scans of a model make, where all samples agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import onnx
import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError
from onnx_reap.graph.batches import Probed
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.names import first_output
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.probing import computed, few_and_all, follows_from_sizes
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.bodies import first_result
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.extract import bodies_of
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.loops import integers
from onnx_reap.onnxio.session import Feed

LARGEST = 4096
"""Nodes of all trips of a loop, past which its body stays as it is."""

PREFIX = "onnx_reap.trips/"

DIFFER = "whose trips differ in number from sample to sample"
OTHER_STATES = "whose states or results are not all tensors of real numbers"
CALLS = "which calls functions of the model"
OLD_SCAN = "of an operator set older than 9"


def find_trips(
    model: Model, probed: Probed, providers: Sequence[str], nodes: Mapping[str, gs.Node]
) -> dict[str, int | str]:
    """Count the trips of Loops and Scans with layers in their bodies.

    Left out are those with results that are read and are no real numbers, on which shapes may
    depend, and with states that are no tensors.

    Returns
    -------
    dict of str to int or str
        Trips by the path of the node, see `Taken`, or why they can't be followed.
    """
    nodes = {name: node for name, node in nodes.items() if _has_layers(node)}
    light = model.to_run()
    proto = onnx.ModelProto()
    proto.CopyFrom(light.proto)
    by_name = {first_result(node): node for node in proto.graph.node}
    protos = {path: by_name[first_output(node)] for path, node in nodes.items()}
    found: dict[str, int | str] = {
        path: why
        for path, node in nodes.items()
        if (why := _obstacle(node, protos[path], model, probed[0]))
    }
    counted = {
        path: _counted(protos[path], f"{PREFIX}{n}")
        for n, path in enumerate(nodes)
        if path not in found
    }
    if not counted:
        return found
    few, every = few_and_all(probed)
    by_sizes = all(_follow_from_sizes(nodes[path], protos[path]) for path in counted)
    feeds = few if by_sizes else chain(few, every)
    try:
        seen = _trips(replace(light, proto=proto), counted, feeds, providers)
    except ReapError:
        return found | dict.fromkeys(counted, "whose trips could not be counted")
    for name, numbers in seen.items():
        size, trips = len(nodes[name].attrs["body"].nodes), max(numbers)
        found[name] = trips
        if len(numbers) > 1:
            found[name] = DIFFER
        elif not trips:
            found[name] = "which makes no trip"
        elif trips * size > LARGEST:
            found[name] = f"which makes {trips} trips, too many to follow"
    return found


def _trips(
    model: LightModel,
    counted: Mapping[str, tuple[str, int]],
    feeds: Iterable[Feed],
    providers: Sequence[str],
) -> dict[str, set[int]]:
    """Run a model, and measure tensors along an axis."""
    seen: dict[str, set[int]] = {name: set() for name in counted}
    for values in computed(model, {name for name, _ in counted.values()}, feeds, providers):
        for node, (name, axis) in counted.items():
            seen[node].add(int(values[name].shape[axis]))
        if all(len(each) > 1 for each in seen.values()):
            break
    return seen


def _follow_from_sizes(node: gs.Node, proto: onnx.NodeProto) -> bool:
    """Whether trips are as many for all samples of one size."""
    if proto.op_type == "Scan":
        (slices,) = integers(proto, "num_scan_inputs")
        return not node.inputs[-slices].inputs  # an input of the model, or a constant
    (body,) = bodies_of(proto)
    handed_on = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
    goes_on = handed_on.get(body.output[0].name, body.output[0].name) == body.input[1].name
    return goes_on and all(follows_from_sizes(tensor) for tensor in node.inputs[:2] if tensor.name)


def _obstacle(node: gs.Node, proto: onnx.NodeProto, model: Model, probe: Probe) -> str:
    """Return why a loop can't be followed, whatever its trips; nothing if it can."""
    functions = {(f.domain, f.name) for f in model.light.proto.functions}
    if any((inner.domain, inner.op) in functions for inner in node.attrs["body"].nodes):
        return CALLS
    if model.opset < 9:
        return OLD_SCAN
    return "" if _holds_tensors(proto) and _has_real_results(node, model, probe) else OTHER_STATES


def _has_layers(node: gs.Node) -> bool:
    layers = Trait.WEIGHTED | Trait.RECURRENT
    return any(traits_of(inner.op) & layers for inner in node.attrs["body"].nodes)


def _has_real_results(node: gs.Node, model: Model, probe: Probe) -> bool:
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
