"""Cutting: remove units from every tensor that holds them, and correct what counts them.

Nothing is patched by pattern. For every tensor the labels tell which positions stay; constants are
sliced by the tensors that they follow, and a node's own numbers are corrected by its rule until the
node, run on what is left of its input, gives what is left of its output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from .model import STANDARD_DOMAINS, Model
from .probe import Probe
from .records import Binding, Flow, Linear
from .rules import RULES
from .labels import Labels
from .site import Findings, Resize, Site

Kept = Mapping[str, tuple[int, np.ndarray]]


def kept_positions(flow: Flow, removed: Iterable[int]) -> dict[str, tuple[int, np.ndarray]]:
    """Return, for every tensor that loses something, its axis and the positions that stay."""
    gone = np.array(sorted(removed), np.int64)
    kept = {}
    for tensor, axis in flow.axes.items():
        stays = ~np.isin(flow.units_along(tensor, axis), gone)
        if not stays.all():
            kept[tensor] = (axis, np.flatnonzero(stays))
    return kept


def cut_graph(model: Model, probe: Probe, flow: Flow, removed: Iterable[int]) -> None:
    """Remove units from the graph of `model`, in place."""
    kept = kept_positions(flow, removed)
    values = _new_values(model, probe, flow, kept)
    for name, array in cut_constants(model, flow, kept).items():
        model.constants()[name].values = array
    for node in model.nodes:
        if node.domain not in STANDARD_DOMAINS or node.op not in RULES:
            continue
        resize = RULES[node.op].resize
        tensors = [t.name for t in (*node.inputs, *node.outputs)]
        if resize is None or not any(name in kept or name in values for name in tensors):
            continue
        site = Site(node, model.keys[id(node)], model.opset, probe, Labels(), Findings())
        correction = Resize(site, kept, values)
        resize(correction)
        _apply(correction, model, probe)


def cut_constants(model: Model, flow: Flow, kept: Kept) -> dict[str, np.ndarray]:
    """Return the new values of every constant that loses entries."""
    constants = model.constants()
    grouped = {linear.weight: linear for linear in flow.linears if _blockwise(linear)}
    cuts: dict[str, dict[int, np.ndarray]] = {}
    for binding in flow.bindings:
        stays = _positions_left(binding, kept)
        if stays is not None and binding.constant not in grouped:
            cuts.setdefault(binding.constant, {})[binding.constant_axis] = stays
    new = {}
    for name, axes in cuts.items():
        array = constants[name].values
        for axis, stays in axes.items():
            array = np.take(array, stays, axis)
        new[name] = np.ascontiguousarray(array)
    for name, linear in grouped.items():
        if linear.x in kept or linear.y in kept:
            new[name] = _cut_grouped(constants[name].values, linear, kept)
    return new


def _blockwise(linear: Linear) -> bool:
    return linear.group > 1 and not linear.depthwise


def _positions_left(binding: Binding, kept: Kept) -> np.ndarray | None:
    cut = kept.get(binding.tensor)
    return cut[1] if cut is not None and cut[0] == binding.tensor_axis else None


def group_positions(
    linear: Linear, kept: Kept, inputs: int, outputs: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each group of a convolution, the inputs and outputs that stay (in the group)."""
    stays_in = kept[linear.x][1] if linear.x in kept else np.arange(inputs)
    stays_out = kept[linear.y][1] if linear.y in kept else np.arange(outputs)
    per_in, per_out = inputs // linear.group, outputs // linear.group
    return [
        (
            stays_in[stays_in // per_in == g] - g * per_in,
            stays_out[stays_out // per_out == g] - g * per_out,
        )
        for g in range(linear.group)
    ]


def _cut_grouped(weight: np.ndarray, linear: Linear, kept: Kept) -> np.ndarray:
    """Slice the weight of a grouped convolution group by group."""
    g = linear.group
    blocks = np.stack(np.split(weight, g, axis=0))  # (groups, first axis, second axis, taps)
    transposed = linear.transposed
    shape = blocks.shape
    inputs, outputs = (shape[1], shape[2]) if transposed else (shape[2], shape[1])
    positions = group_positions(linear, kept, inputs * g, outputs * g)
    pieces = [
        block[np.ix_(i, o) if transposed else np.ix_(o, i)]
        for block, (i, o) in zip(blocks, positions, strict=True)
    ]
    return np.ascontiguousarray(np.concatenate(pieces, axis=0))


def _new_values(model: Model, probe: Probe, flow: Flow, kept: Kept) -> dict[str, np.ndarray]:
    """Recompute tensors that are made of sizes, with the sizes after the cut."""
    new: dict[str, np.ndarray] = {}
    for node in model.nodes:
        names = [t.name for t in node.outputs if t.name]
        if node.op == "Shape" and node.inputs[0].name in kept:
            axis, stays = kept[node.inputs[0].name]
            shape = list(probe.shapes[node.inputs[0].name])
            shape[axis] = len(stays)
            start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
            new[names[0]] = np.array(shape[start:end], np.int64)
        elif node.op == "Size" and node.inputs[0].name in kept:
            axis, stays = kept[node.inputs[0].name]
            shape = probe.shapes[node.inputs[0].name]
            new[names[0]] = np.array(np.prod(shape) // shape[axis] * len(stays), np.int64)
        elif flow.of_sizes.issuperset(names) and any(t.name in new for t in node.inputs):
            new.update(_evaluate(node, model, new, probe))
    return {name: value for name, value in new.items() if not np.array_equal(value, probe.values[name])}


def _evaluate(
    node: gs.Node, model: Model, new: Mapping[str, np.ndarray], probe: Probe
) -> dict[str, np.ndarray]:
    """Run one node of shape arithmetic on new sizes."""
    feed = {t.name: new.get(t.name, probe.values[t.name]) for t in node.inputs if t.name}
    proto = gs.exporters.onnx_exporter.OnnxExporter.export_node(node)
    names = [t.name for t in node.outputs if t.name]
    graph = onnx.helper.make_graph(
        [proto],
        "sizes",
        [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feed.items()],
        [onnx.ValueInfoProto(name=name) for name in names],
    )
    single = onnx.helper.make_model(graph, opset_imports=model.proto.opset_import)
    return dict(zip(names, map(np.asarray, ReferenceEvaluator(single).run(names, feed)), strict=True))


def _apply(correction: Resize, model: Model, probe: Probe) -> None:
    """Put corrected parameters in front of a node: a constant, or an override of what is computed."""
    node = correction.node
    place = model.graph.nodes.index(node)
    for index, value in correction.inputs.items():
        name = f"{correction.site.output_name()}_{correction.site.op.lower()}_{index}"
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is None or not old.name or isinstance(old, gs.Constant):
            dtype = np.int64 if old is None or not old.name else old.values.dtype
            new: gs.Tensor = gs.Constant(name, np.asarray(value).astype(dtype))
        else:
            was = correction.value(index)
            assert was is not None
            mask, fixed = np.asarray(value != was), np.asarray(value).astype(was.dtype)
            new = gs.Variable(name, was.dtype)
            inputs = [gs.Constant(f"{name}_where", mask), gs.Constant(f"{name}_fixed", fixed), old]
            model.graph.nodes.insert(place, gs.Node("Where", f"{name}_override", {}, inputs, [new]))
            place += 1
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        node.inputs[index] = new
    for extra in correction.before:
        model.graph.nodes.insert(model.graph.nodes.index(node), extra)
    for added in model.graph.nodes:
        model.keys.setdefault(id(added), added.name)
