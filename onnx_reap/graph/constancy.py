"""Tensors that a layer without inputs makes constant, and the additions that end their spread."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_reap.graph.edit.weights import has_plain_bias, layer_weights
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.ir.wiring import CAPTURED, Edge, Wiring
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.session import run, session

CPU = ("CPUExecutionProvider",)  # a handful of numbers
ROUNDING = 1e-5  # relative: a reduction over equal numbers need not give exactly this number


@dataclass(frozen=True)
class Join:
    """One addend that becomes constant."""

    edge: Edge  # The addition, and which of its inputs this is
    tensor: str
    axis: int  # Of the channels; along all others the constant is the same
    beside: str  # An addend of the full shape that is not constant


def find_joins(
    wiring: Wiring, probe: Probe, flow: Flow, vanishing: Set[str], roots: Sequence[Linear]
) -> list[Join]:
    """Follow what layers make constant that read nothing any more, up to additions to the rest.

    Parameters
    ----------
    vanishing : set of str
        Tensors that will be removed, and so are no candidates.
    roots : sequence of Linear
        These layers.
    """
    linears = {linear.node: linear for linear in flow.linears}
    constant = {root.y for root in roots} - vanishing
    zeros = {root.y for root in roots if root.bias is None}
    joins = []
    todo = [place for name in constant for place in _readers(wiring, name)]
    heapify(todo)  # the first one first: all that it reads has been looked at
    last = -1
    while todo:
        place = heappop(todo)
        if place == last:
            continue
        last = place
        node, key = wiring.nodes[place], wiring.keys[place]
        inputs = [t for t in node.inputs if t.name]
        moving = [t for t in inputs if t.name not in constant and not isinstance(t, gs.Constant)]
        if not moving:
            if _carries(node, linears.get(key), zeros):
                made = {t.name for t in node.outputs if t.name} - vanishing
                constant |= made
                for reader in (p for name in made for p in _readers(wiring, name)):
                    heappush(todo, reader)
        elif Trait.ADDS in traits_of(node.op) and node.domain in STANDARD_DOMAINS:
            joins += _joins(key, probe, flow, node, constant, vanishing)
    return joins


def _readers(wiring: Wiring, name: str) -> list[int]:
    return [place for place, number in wiring.readers.get(name, ()) if number != CAPTURED]


def _carries(node: gs.Node, linear: Linear | None, zeros: Set[str]) -> bool:
    """Whether a node makes constants of constants, the same at every position.

    Padding is zero, so that a constant which is not ends at the borders.
    """
    traits = traits_of(node.op)
    if node.domain not in STANDARD_DOMAINS or Trait.KEEPS_CONSTANTS not in traits:
        return False
    if captured_tensors([node]):
        return False
    if linear is None and Trait.WEIGHTED in traits:
        return False  # a sum over as many activations as the model is fed
    return linear is None or not any(linear.pads) or linear.x in zeros


def _joins(
    key: str, probe: Probe, flow: Flow, node: gs.Node, constant: Set[str], vanishing: Set[str]
) -> list[Join]:
    shapes, out = probe.shapes, node.outputs[0].name
    others = [
        t.name
        for t in node.inputs
        if t.name not in constant | vanishing
        and not isinstance(t, gs.Constant)
        and shapes.get(t.name) == shapes.get(out)
    ]
    if not others or out not in shapes:
        return []
    return [
        Join((key, place), t.name, flow.axes.get(out, -1), others[0])
        for place, t in enumerate(node.inputs)
        if t.name in constant and shapes.get(t.name) == shapes[out]
    ]


def constant_values(
    model: Model,
    probe: Probe,
    flow: Flow,
    roots: Sequence[str],
    tensors: Sequence[str],
) -> dict[str, np.ndarray] | None:
    """Compute tensors from layers that give their bias alone.

    Parameters
    ----------
    roots : sequence of str
        Keys of these layers.

    Returns
    -------
    dict or None
        Arrays of the probe's shapes; None where a layer's bias is not one number per output.
    """
    linears = {linear.node: linear for linear in flow.linears}
    feed = {}
    for linear in (linears[root] for root in roots):
        if not has_plain_bias(model, linear):
            return None
        shape, (_, bias) = probe.shapes[linear.y], layer_weights(model, linear)
        place = [-1 if axis == linear.y_axis else 1 for axis in range(len(shape))]
        full = np.broadcast_to(bias.reshape(place), shape)
        feed[linear.y] = np.ascontiguousarray(full, probe.dtypes[linear.y])
    part = model.part({name: array.dtype for name, array in feed.items()}, tensors)
    active = session(part, CPU, optimize=False)
    fed = {value.name for value in active.get_inputs()}
    named = [name for name in tensors if name not in feed]
    found = run(active, named, {n: x for n, x in feed.items() if n in fed}) if named else {}
    return {name: feed[name] if name in feed else found[name] for name in tensors}


def per_channel(values: np.ndarray, axis: int) -> npt.NDArray[np.float64] | None:
    """Return the entries along an axis, (C,), if they are the same along all others."""
    first = values[tuple(slice(None) if a == axis else slice(1) for a in range(values.ndim))]
    spread = np.abs(values.astype(np.float64) - first).max(initial=0.0)
    if not np.isfinite(values).all() or spread > ROUNDING * np.abs(first).max(initial=0.0):
        return None
    return first.astype(np.float64).ravel()


def channel_axis(values: np.ndarray) -> int | None:
    """Return the axis along which a constant varies most; None for equal entries, or NaN."""
    if not np.isfinite(values).all():
        return None
    spreads = [
        np.ptp(values.astype(np.float64), axis=axis).max(initial=0.0) for axis in range(values.ndim)
    ]
    return int(np.argmax(spreads)) if max(spreads, default=0.0) > 0 else None
