"""Cutting: remove units from every tensor that holds them, and correct what counts them.

Branches none of whose channels stay are taken out first.

Nothing is patched by pattern. For every tensor the labels tell which positions stay; constants are
sliced by the tensors that they follow, and a node's own numbers are corrected by its rule until the
node, run on what is left of its input, gives what is left of its output.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from onnx_reap.graph.branches import Branches
from onnx_reap.graph.edit.vanish import vanish
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.kept import Kept, kept_positions
from onnx_reap.graph.labels.records import Binding, Flow, Linear
from onnx_reap.graph.labels.sizes import corrections_needed, sizes_after
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.table import RULES


def cut_graph(
    model: Model,
    probe: Probe,
    flow: Flow,
    removed: Collection[int],
    branches: Branches,
) -> None:
    """Remove units from the graph of `model`, in place.

    Parameters
    ----------
    removed : collection of int
        Units of `flow`. Of every group equally many of its parts must stay, and one at least,
        unless it vanishes, or vanishes with another one.
    branches : Branches
        That may vanish.
    """
    kept = kept_positions(flow, removed)
    model.sizes |= {name: (axis, len(stays)) for name, (axis, stays) in kept.items()}
    if gone := branches.vanished(removed):
        vanish(model, probe, flow, removed, gone, kept)
    values = sizes_after(model, probe, flow.of_sizes, kept)
    cut_constants(model, flow, kept)
    for node in model.nodes:
        rule = RULES.get(node.op) if node.domain in STANDARD_DOMAINS else None
        if rule is None or rule.correct is None or not corrections_needed(node, kept, values):
            continue
        rule.correct(Correction(node, model, probe, flow.of_sizes, kept, values))


def cut_constants(model: Model, flow: Flow, kept: Kept) -> None:
    """Give every constant those of its entries that stay, with their scales and zero points."""
    constants = model.constants()
    arrays = {name: constant.values for name, constant in constants.items()}
    new = _left(arrays, flow, kept)
    alike: dict[str, np.ndarray] = {}
    for copy, name in model.copied.items():
        # The very same array is written once: what follows other units is another constant.
        if flow.followed(copy) == flow.followed(name):
            if copy in new:  # the original may have gone with a branch
                new[copy] = alike.setdefault(name, new.get(name, new[copy]))
        elif copy in arrays and copy not in new:
            new[copy] = arrays[copy].copy()
    for name, array in new.items():
        constants[name].values = array
    grids = {name: stored.grid for name, stored in model.stored.items() if name in constants}
    scales = _left({name: grid.scale for name, grid in grids.items()}, flow, kept)
    zeros = _left({name: grid.zero for name, grid in grids.items()}, flow, kept)
    for name in scales:
        grid = replace(grids[name], scale=scales[name], zero=zeros[name])
        model.stored[name] = replace(model.stored[name], grid=grid)


def _left(arrays: Mapping[str, np.ndarray], flow: Flow, kept: Kept) -> dict[str, np.ndarray]:
    """Return what stays of every array that loses entries, by the constant that it belongs to."""
    grouped = {linear.weight: linear for linear in flow.linears if _blockwise(linear)}
    cuts: dict[str, dict[int, np.ndarray]] = {}
    for binding in flow.bindings:
        stays = _positions_left(binding, kept)
        if stays is not None and binding.constant not in grouped:
            cuts.setdefault(binding.constant, {})[binding.constant_axis] = stays
    new = {}
    for name, axes in cuts.items():
        if name not in arrays:
            continue  # it went with a branch, or has no such array
        array = arrays[name]
        for axis, stays in axes.items():
            array = np.take(array, stays, axis)
        new[name] = np.ascontiguousarray(array)
    for name, linear in grouped.items():
        if name in arrays and (linear.x in kept or linear.y in kept):
            new[name] = _cut_grouped(arrays[name], linear, kept)
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
    first, second = blocks.shape[1:3]
    inputs, outputs = (first, second) if linear.transposed else (second, first)
    positions = group_positions(linear, kept, inputs * g, outputs * g)
    pieces = [
        block[np.ix_(i, o) if linear.transposed else np.ix_(o, i)]
        for block, (i, o) in zip(blocks, positions, strict=True)
    ]
    return np.ascontiguousarray(np.concatenate(pieces, axis=0))
