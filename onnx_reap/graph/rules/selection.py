"""Parts of a tensor: Slice, Split, Gather, Pad; their bounds follow from the labels left."""

import numpy as np

from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.ir.view import View
from onnx_reap.graph.labels.labels import LabelArray, collapse, first_along
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.indexing import gather_by_data
from onnx_reap.graph.rules.rule import Rule, movement
from onnx_reap.graph.rules.traits import Trait


def _slices(node: View) -> dict[int, slice]:
    """Read a Slice node's bounds: axis -> slice."""
    starts, ends = node.parameter(1, "starts"), node.parameter(2, "ends")
    axes, steps = node.parameter(3, "axes"), node.parameter(4, "steps")
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    return {
        node.axis(axis): _python_slice(int(start), int(end), int(step))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def _python_slice(start: int, end: int, step: int) -> slice:
    # A negative step runs down to the first entry by a very negative end; Python wants None.
    return slice(start, None if step < 0 and end < -(2**31) + 1 else end, step)


def _slice(site: Site, labels: LabelArray) -> LabelArray:
    bounds = _slices(site)
    return labels[tuple(bounds.get(axis, slice(None)) for axis in range(labels.ndim))]


def _correct_slice(node: Correction) -> None:
    cut, before = node.kept(node.name()), _slices(node.before)
    if cut is None or cut[0] not in before:
        return
    axis, kept = cut
    chosen = np.arange(node.before.shape()[axis])[before[axis]]
    wanted = np.searchsorted(kept, chosen[np.isin(chosen, kept)])
    if np.array_equal(np.arange(len(kept))[_slices(node)[axis]], wanted):
        return
    bounds = _as_slice(wanted)
    if bounds is None:
        node.pick_input(axis, wanted)
        bounds = slice(0, 2**31 - 1, 1)
    place = list(before).index(axis)
    new = {"starts": bounds.start, "ends": bounds.stop, "steps": bounds.step}
    for index, name in ((1, "starts"), (2, "ends"), (4, "steps")):
        listed = node.parameter(index, name)
        if listed is not None and listed[place] != new[name]:
            listed = np.array(listed)
            listed[place] = new[name]
            node.set_parameter(index, name, listed)


def _as_slice(positions: np.ndarray) -> slice | None:
    """Express positions as a slice, if one does."""
    if len(positions) == 1:
        return slice(int(positions[0]), int(positions[0]) + 1, 1)
    steps = np.unique(np.diff(positions))
    if len(steps) != 1:
        return None
    start, step = int(positions[0]), int(steps[0])
    stop = int(positions[-1]) + (1 if step > 0 else -1)
    if step == 1 or stop >= 0:
        return slice(start, stop, step)
    return slice(start, -(2**31), step)


def _split(site: Site) -> None:
    """Divide the labels; outputs tell the lengths."""
    labels, axis = site.labels(), site.axis(site.attribute("axis", 0))
    site.value(1)
    if not all(site.has_output(index) for index in range(len(site.node.outputs))):
        site.freeze(labels, "Split with an output that has no name")
        return
    start = 0
    for index in range(len(site.node.outputs)):
        size = site.output_shape(index)[axis]
        site.set_labels(labels[(slice(None),) * axis + (slice(start, start + size),)], index)
        start += size


def _correct_split(node: Correction) -> None:
    axis = node.axis(node.attribute("axis", 0))
    cut = node.kept(node.name())
    if cut is None or cut[0] != axis:
        return
    sizes = [node.output_shape(index)[axis] for index in range(len(node.node.outputs))]
    if node.opset < 13:
        node.node.attrs["split"] = sizes
    else:
        node.node.attrs.pop("num_outputs", None)
        node.set_input(1, np.array(sizes))


def _gather(site: Site, labels: LabelArray) -> LabelArray:
    axis, indices = site.axis(site.attribute("axis", 0)), site.value(1)
    assert indices is not None
    if axis in site.varying(labels) and not site.is_constant(1):
        site.freeze(labels, "Gather with indices that follow from sizes")
        return site.no_labels()
    if labels.strides[axis] == 0:
        core = labels[(slice(None),) * axis + (0,)]
        core = np.expand_dims(core, tuple(range(axis, axis + indices.ndim)))
        return np.broadcast_to(core, site.output_shape())
    return np.take(_thin(labels, axis), indices, axis)


_gather_moving = movement(_gather).flow


def _gather_or_embed(site: Site) -> None:
    """Look rows of a constant table up, or move data."""
    table = site.is_constant(0) and len(site.shape(0)) == 2 and is_floating(site.node.inputs[0])
    if site.value(1) is not None:
        _gather_moving(site)
        return
    if not table or site.attribute("axis", 0) != 0:
        gather_by_data(site)
        return
    # An embedding is a dense layer that reads one-hot vectors: its columns are channels.
    site.freeze(site.labels(1), "Gather takes them for numbers of rows")
    last = len(site.output_shape()) - 1
    site.fresh(axis=last)
    site.bind(0, 1, site.output_name(), last)


def _thin(labels: LabelArray, axis: int) -> LabelArray:
    """Collapse all stride-0 axes but one."""
    index = [
        slice(1) if step == 0 and i != axis else slice(None)
        for i, step in enumerate(labels.strides)
    ]
    return labels[tuple(index)]


def _correct_gather(node: Correction) -> None:
    axis = node.axis(node.attribute("axis", 0))
    cut, indices = node.kept(node.name()), node.value(1)
    if cut is None or cut[0] != axis or indices is None:
        return
    indices = indices % node.before.shape()[axis]
    left = node.kept(node.output_name())
    if left is not None:
        indices = np.take(indices, left[1], left[0] - axis)
    node.set_input(1, np.searchsorted(cut[1], indices))


def _pads(node: View) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the amounts of a Pad node: entries before and after each axis."""
    amounts = node.parameter(1, "pads")
    if amounts is None or (node.has_input(3) and node.value(3) is None):
        return None
    before, after = np.zeros((2, len(node.shape())), int)
    axes = _padded_axes(node)
    before[axes], after[axes] = np.split(amounts, 2)
    return before, after


def _padded_axes(node: View) -> np.ndarray:
    axes = node.value(3)
    return np.arange(len(node.shape())) if axes is None else axes % len(node.shape())


def _pad(site: Site) -> None:
    """Extend labels; along an axis where they vary, constant entries are channels of their own."""
    labels = site.labels()
    amounts = _pads(site)
    axes = site.varying(labels)
    constant = site.attribute("mode", "constant") == "constant"
    grown = [] if amounts is None else [a for a in axes if amounts[0][a] or amounts[1][a]]
    if amounts is None or any(amounts[0][a] < 0 or amounts[1][a] < 0 for a in axes):
        site.freeze(labels, "Pad whose amounts depend on data or cut channels off")
        return
    if len(grown) > 1 or (grown and not constant):
        site.freeze(labels, f"Pad along channels ({site.attribute('mode', 'constant')} mode)")
        return
    if not grown:
        core = collapse(labels)
        site.set_labels(np.broadcast_to(core, _stretched(core.shape, site.output_shape())))
        return
    axis = grown[0]
    before, after = int(amounts[0][axis]), int(amounts[1][axis])
    new = site.new_channels(before + after)
    flat = first_along(labels, set(range(labels.ndim)) - set(axes))
    shape = [1] * labels.ndim
    shape[axis] = -1
    pieces = [new[:before].reshape(shape), flat, new[before:].reshape(shape)]
    others = [size if i != axis else -1 for i, size in enumerate(flat.shape)]
    pieces = [np.broadcast_to(p, [p.shape[axis] if s == -1 else s for s in others]) for p in pieces]
    site.set_labels(np.concatenate(pieces, axis))


def _stretched(core: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    """Shape to broadcast to; the full one wherever the core has length 1."""
    return tuple(f if c == 1 else c for c, f in zip(core, full, strict=True))


def _correct_pad(node: Correction) -> None:
    cut, amounts = node.kept(node.output_name()), _pads(node.before)
    if cut is None or amounts is None:
        return
    axis, kept = cut
    before, after = (int(amount[axis]) for amount in amounts)
    if not before and not after:
        return
    listed = np.array(node.parameter(1, "pads"))
    place = int(np.flatnonzero(_padded_axes(node) == axis)[0])
    listed[place] = (kept < before).sum()
    listed[place + len(listed) // 2] = (kept >= before + node.before.shape()[axis]).sum()
    node.set_parameter(1, "pads", listed)


SELECTION: dict[str, Rule] = {
    "Slice": movement(_slice, _correct_slice, Trait.PICKS | Trait.SELECTS),
    "Split": Rule(
        _split, _correct_split, Trait.MOVES | Trait.PICKS | Trait.ALONG_AXIS | Trait.SELECTS
    ),
    "Gather": Rule(
        _gather_or_embed,
        _correct_gather,
        Trait.MOVES | Trait.PICKS | Trait.ALONG_AXIS | Trait.SELECTS | Trait.INDEXES,
    ),
    "Pad": Rule(_pad, _correct_pad, Trait.OWN_CHANNEL | Trait.KEEPS_INNER_CONSTANTS),
}
