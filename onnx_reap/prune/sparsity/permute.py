"""Channels in another order: the same function, with the constants of all layers re-indexed.

A permutation says for every unit which unit takes its place. What moves data moves labels too, so
wherever a tensor holds unit u, it then holds what took its place; constants that follow the tensor
are taken in that order, by the same bindings that cut them.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.edit.cut import cut_constants
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.graph.labels.labels import LabelArray
from onnx_reap.graph.labels.records import Flow

Permutation = Mapping[int, int]
"""For units that move, the unit that takes their place."""


def reorder(labels: LabelArray, permutation: Permutation) -> np.ndarray | None:
    """Say which position goes where: entry p is the position that is moved to p.

    A unit that occurs several times is moved occurrence by occurrence.

    Parameters
    ----------
    labels : (P,) int array
        Units at the positions of an axis.

    Returns
    -------
    (P,) int array, or None
        None where a unit that is to come doesn't occur as often as the one that goes.
    """
    labels = np.asarray(labels)
    wanted = np.array([permutation.get(unit, unit) for unit in labels.tolist()], labels.dtype)
    place = np.arange(len(labels))
    first = np.lexsort((place, labels))
    _, start, count = np.unique(labels[first], return_index=True, return_counts=True)
    occurrence = np.empty_like(place)
    occurrence[first] = place - np.repeat(start, count)
    found, to = np.lexsort((occurrence, labels)), np.lexsort((occurrence, wanted))
    order = np.empty_like(place)
    order[to] = found
    right = np.array_equal(labels[order], wanted)
    return order if right and np.array_equal(occurrence[order], occurrence) else None


def orders(flow: Flow, permutation: Permutation) -> dict[str, tuple[int, np.ndarray]] | str:
    """Return the order along the axis of every tensor that changes, or why there is none."""
    found: dict[str, tuple[int, np.ndarray]] = {}
    for tensor, axis in flow.axes.items():
        order = reorder(flow.units_along(tensor, axis), permutation)
        if order is None:
            return f"{tensor} holds some of these channels only"
        if not np.array_equal(order, np.arange(len(order))):
            found[tensor] = (axis, order)
    return _problem(flow, found) or found


def _problem(flow: Flow, found: Kept) -> str | None:
    """Say what a change of order would break: maps side by side, parts, or a shared constant."""
    for linear in flow.linears:
        if linear.group > 1 and not linear.depthwise:
            for tensor in (linear.x, linear.y):
                if tensor in found and not _stays_within(found[tensor][1], linear.group):
                    return f"{linear.node} reads groups of channels"
    for tie in flow.equal_counts:
        if tie.tensor in found and not _stays_within(found[tie.tensor][1], tie.parts):
            return f"{tie.node} treats channels in groups"
    constants: dict[tuple[str, int], np.ndarray | None] = {}
    for binding in flow.bindings:
        moves = found.get(binding.tensor)
        order = moves[1] if moves is not None and moves[0] == binding.tensor_axis else None
        key = (binding.constant, binding.constant_axis)
        if key in constants and not _same(constants[key], order):
            return f"{binding.constant} follows several tensors"
        constants[key] = order
    return None


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _stays_within(order: np.ndarray, parts: int) -> bool:
    each = len(order) // parts
    return np.array_equal(order // each, np.arange(len(order)) // each)


def movable(
    model: Model, flow: Flow, groups: tuple[Group, ...]
) -> tuple[list[Group], dict[str, str]]:
    """Divide groups into those whose channels may change places, and others with the reason.

    Whether any two of a part may is tried by turning all of them round once.
    """
    free, stuck = [], {}
    rigid = _rigid_makers(model, flow)
    for group in groups:
        turned = turn(group)
        if not turned:
            continue
        maker = next(
            (node for node in rigid if np.isin(group.units, flow.makers[node]).any()), None
        )
        problem = orders(flow, turned) if maker is None else f"{maker} makes them without weights"
        if isinstance(problem, str):
            stuck[group.name] = problem
        else:
            free.append(group)
    return free, stuck


def _rigid_makers(model: Model, flow: Flow) -> list[str]:
    """List the nodes that make channels in an order that no constant tells; padding is alike."""
    bound = {(binding.constant, binding.tensor) for binding in flow.bindings}
    nodes = {model.keys[id(node)]: node for node in model.nodes}

    def told(node: gs.Node) -> bool:
        pairs = product(node.inputs, node.outputs)
        return any((given.name, made.name) in bound for given, made in pairs)

    return [key for key in flow.makers if nodes[key].op != "Pad" and not told(nodes[key])]


def turn(group: Group) -> dict[int, int]:
    """Let every unit of a part take the place of the one before it."""
    turned: dict[int, int] = {}
    parts = group.parts or (0,) * group.width
    for part in dict.fromkeys(parts):
        units = [unit for unit, own in zip(group.units, parts, strict=True) if own == part]
        if len(units) > 1:
            turned.update(zip(units, units[1:] + units[:1], strict=True))
    return turned


def permute_graph(model: Model, flow: Flow, found: Kept) -> None:
    """Put the channels of a graph into another order, in place."""
    cut_constants(model, flow, found)
