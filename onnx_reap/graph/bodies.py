"""Layers that no rule counts: in bodies of If, Loop and Scan, and in forms without a rule.

They stay as they are, and are counted in a run.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_graphsurgeon as gs

from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.names import first_output
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.records import Flow
from onnx_reap.graph.mac_formulas import formula_of
from onnx_reap.graph.macs_by_run import Place, count_by_run
from onnx_reap.graph.rules.traits import Trait, has_rule, traits_of
from onnx_reap.onnxio.session import Feed


@dataclass(frozen=True)
class Bodies:
    """What the bodies of a model's own nodes hold."""

    frozen: tuple[FrozenChannels, ...]  # Made by layers in them, or by those without a rule
    macs: Mapping[FrozenChannels, float]  # Multiply-accumulates per sample of these layers
    # By the model's own node, of all that its bodies hold, or of itself where no rule counts it
    totals: Mapping[str, float]


def without_count(model: Model, flow: Flow) -> list[gs.Node]:
    """Return the nodes that multiply and add, but are neither layers nor products of the flow."""
    layers = {each.node for each in flow.linears}
    products = {each.y for each in flow.products}
    return [
        node
        for node in model.nodes
        if formula_of(node.domain, node.op)
        and model.keys[id(node)] not in layers
        and products.isdisjoint(tensor.name for tensor in node.outputs)
    ]


def find_in_bodies(
    model: Model,
    feed: Feed,
    batch: int,
    providers: Sequence[str],
    uncounted: Sequence[gs.Node] = (),
    left: Mapping[str, str] = MappingProxyType({}),
) -> Bodies:
    """List the channels that layers with constant weights make inside bodies, at any depth.

    The cause is the node of the model's own graph whose body it is.

    Parameters
    ----------
    feed : feed
        Of so many samples as `batch` tells: bodies run as often, and as far, as this takes.
    uncounted : sequence of gs.Node
        The model's own nodes that are counted, too; see `without_count`.
    left : mapping of str to str
        Why bodies can't be followed, by the node's path, see `Taken`.
    """
    frozen: list[FrozenChannels] = []
    macs: dict[FrozenChannels, float] = {}
    totals: dict[str, float] = {}
    holders = [node for node in model.nodes if any(_inside(node))]
    others = {first_output(node) for node in uncounted}
    counts = count_by_run(model, feed, providers, others) if holders or uncounted else Counter()
    unknown = "" if counts is not None else "; how often it runs could not be counted: 0 MACs"
    for node in {id(each): each for each in (*holders, *uncounted)}.values():
        reason, first = f"made inside the body of {node.op}", first_output(node)
        if why := left.get(model.origin.paths.get(first, "")):
            reason += f", {why}"
        if model.origin.is_settled(node):
            reason = "made in a branch of If that no sample takes"
        reason, key = reason + unknown, model.keys[id(node)]
        counts_of = {place: n / batch for place, n in (counts or {}).items() if place[0] == first}
        totals[key] = sum(counts_of.values())
        if model.origin.is_copy(node):
            continue  # the file has it once, in the first trip
        for place, inner in _inside(node):
            if channels := _channels(inner):
                row = FrozenChannels(inner.name or first_output(inner), channels, reason, key)
                frozen.append(row)
                macs[row] = macs.get(row, 0.0) + counts_of.get(place, 0.0)
    for node in uncounted:
        if channels := _channels_without_rule(node):
            name = node.op if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op}"
            key = model.keys[id(node)]
            row = FrozenChannels(key, channels, f"no rule for operator {name}" + unknown, key)
            frozen.append(row)
            macs[row] = totals[key]
    return Bodies(tuple(frozen), macs, totals)


def count_params_in_bodies(model: Model) -> int:
    """Count the elements of floating-point constants that bodies have for themselves."""
    inside = [node for holder in model.nodes for _, node in _inside(holder)]
    read = [tensor for node in inside for tensor in node.inputs]
    read += [node.attrs.get("value") for node in inside if node.op == "Constant"]
    outer = {id(constant) for constant in model.constants().values()}
    own = {id(t): t for t in read if isinstance(t, gs.Constant) and id(t) not in outer}
    return sum(math.prod(t.shape) for t in own.values() if is_floating(t))


def has_layers(node: gs.Node) -> bool:
    """Whether layers with constant weights are in a node's bodies, at any depth."""
    return any(_channels(inner) for _, inner in _inside(node))


def _inside(node: gs.Node) -> Iterator[tuple[Place, gs.Node]]:
    """Yield the nodes of bodies, at any depth, and where they are."""
    bodies = ((name, body) for name, body in node.attrs.items() if isinstance(body, gs.Graph))
    for name, body in bodies:
        for inner in body.nodes:
            yield (first_output(node), name, inner.name, first_output(inner)), inner
            yield from (
                ((first_output(node), name, *place), deep) for place, deep in _inside(inner)
            )


def _channels(node: gs.Node) -> int:
    """Count the channels that a layer makes; 0 if it is none, or its weight is computed."""
    if node.domain not in STANDARD_DOMAINS:
        return 0
    if Trait.RECURRENT in traits_of(node.op):
        return _states(node)
    shape = _weight_shape(node)
    match node.op:
        case "Conv" if len(shape) > 2:
            return shape[0]
        case "ConvTranspose" if len(shape) > 2:
            return shape[1] * int(node.attrs.get("group", 1))
        case "Gemm" if len(shape) == 2:
            return shape[0 if node.attrs.get("transB") else 1]
        case "MatMul" if len(shape) > 1:
            return shape[-1]
    return 0


def _states(node: gs.Node) -> int:
    """Count the units of a recurrent layer's hidden state, of both directions."""
    directions = 2 if node.attrs.get("direction") == "bidirectional" else 1
    return directions * int(node.attrs.get("hidden_size", 0))


def _channels_without_rule(node: gs.Node) -> int:
    """Count the channels that a layer of an unknown operator makes; 0 if it has no weight."""
    shapes = (tuple(t.shape) for t in node.inputs if isinstance(t, gs.Constant))
    weight = next((shape for shape in shapes if len(shape) > 1), ())
    if not weight or (node.domain in STANDARD_DOMAINS and has_rule(node.op)):
        return 0
    if "hidden_size" in node.attrs:
        return _states(node)
    return int(weight[0 if len(weight) > 2 or node.attrs.get("transB") else -1])


def _weight_shape(node: gs.Node) -> tuple[int, ...]:
    """Return the shape of the second input if it is constant, in the body or around it."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if isinstance(weight, gs.Constant):
        return tuple(weight.shape)
    makers = [] if weight is None else weight.inputs
    value = makers[0].attrs.get("value") if makers and makers[0].op == "Constant" else None
    return tuple(value.shape) if isinstance(value, gs.Constant) else ()
