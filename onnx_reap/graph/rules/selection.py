"""Parts of a tensor: Slice, Split, Gather, Pad. Their bounds follow from the labels that are left."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..labels import LabelArray, collapse
from ..site import Resize, Site
from .rule import Rule, movement


def _slices(site: Site | Resize) -> dict[int, slice]:
    """Read a Slice node's bounds: axis -> slice."""
    rank = len((site if isinstance(site, Site) else site.site).shape(0))
    starts, ends = site.parameter(1, "starts"), site.parameter(2, "ends")
    axes, steps = site.parameter(3, "axes"), site.parameter(4, "steps")
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    return {
        int(axis) % rank: _python_slice(int(start), int(end), int(step))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def _python_slice(start: int, end: int, step: int) -> slice:
    # A negative step runs down to the first entry with a very negative end, where Python wants None.
    return slice(start, None if step < 0 and end < -(2**31) + 1 else end, step)


def _slice(site: Site, labels: LabelArray) -> LabelArray:
    if site.parameter(1, "starts") is None or site.parameter(2, "ends") is None:
        site.freeze(labels, "Slice with bounds that depend on data")
        return np.broadcast_to(np.int64(0), site.output_shape())
    bounds = _slices(site)
    return labels[tuple(bounds.get(axis, slice(None)) for axis in range(labels.ndim))]


def _resize_slice(site: Resize) -> None:
    cut = site.kept(site.site.name(0))
    if cut is None:
        return
    axis, kept = cut
    before = _slices(site.site)
    if axis not in before:
        return
    size = site.site.shape(0)[axis]
    chosen = np.arange(size)[before[axis]]
    wanted = np.searchsorted(kept, chosen[np.isin(chosen, kept)])
    if np.array_equal(np.arange(len(kept))[_slices(site)[axis]], wanted):
        return
    bounds = _as_slice(wanted)
    order = list(before)
    if bounds is None:
        _gather_instead(site, axis, wanted)
        bounds = slice(0, 2**31 - 1, 1)
    place = order.index(axis)
    for index, name, new in ((1, "starts", bounds.start), (2, "ends", bounds.stop)):
        listed = np.array(site.parameter(index, name))
        listed[place] = new
        site.set_parameter(index, name, listed)
    if (steps := site.parameter(4, "steps")) is not None and steps[place] != bounds.step:
        steps = np.array(steps)
        steps[place] = bounds.step
        site.set_parameter(4, "steps", steps)


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


def _gather_instead(site: Resize, axis: int, positions: np.ndarray) -> None:
    """Pick positions that no bounds express, in front of the node."""
    source = site.node.inputs[0]
    picked = gs.Variable(f"{site.site.output_name()}_picked_from", source.dtype)
    indices = gs.Constant(f"{picked.name}_indices", positions.astype(np.int64))
    site.insert_before(gs.Node("Gather", f"{site.site.key}_pick", {"axis": axis}, [source, indices], [picked]))
    site.node.inputs[0] = picked


def _split(site: Site) -> None:
    labels = site.labels(0)
    axis = site.axis(site.attribute("axis", 0))
    start = 0
    for index in range(len(site.node.outputs)):
        if not site.node.outputs[index].name:
            raise AssertionError(f"{site.key}: a Split output has no name")
        size = site.output_shape(index)[axis]
        part = (slice(None),) * axis + (slice(start, start + size),)
        site.set_labels(labels[part], index)
        start += size


def _resize_split(site: Resize) -> None:
    axis = site.site.axis(site.site.attribute("axis", 0))
    cut = site.kept(site.site.name(0))
    if cut is None or cut[0] != axis:
        return
    sizes = [site.new_shape(t.name)[axis] for t in site.node.outputs]
    if site.site.opset < 13:
        site.node.attrs["split"] = sizes
    else:
        site.node.attrs.pop("num_outputs", None)
        site.set_parameter(1, "split", np.array(sizes, np.int64))


def _gather(site: Site, labels: LabelArray) -> LabelArray:
    axis, indices = site.axis(site.attribute("axis", 0)), site.value(1)
    if indices is None or (axis in site.varying(labels) and not site.is_constant(1)):
        site.freeze(labels, "Gather with indices that depend on data")
        return np.broadcast_to(np.int64(0), site.output_shape())
    if labels.strides[axis] == 0:
        core = labels[(slice(None),) * axis + (0,)]
        core = np.expand_dims(core, tuple(range(axis, axis + indices.ndim)))
        return np.broadcast_to(core, site.output_shape())
    return np.take(_thin(labels, axis), indices, axis)


def _thin(labels: LabelArray, axis: int) -> LabelArray:
    """Collapse all stride-0 axes but one."""
    index = [slice(1) if step == 0 and i != axis else slice(None) for i, step in enumerate(labels.strides)]
    return labels[tuple(index)]


def _resize_gather(site: Resize) -> None:
    axis = site.site.axis(site.site.attribute("axis", 0))
    cut = site.kept(site.site.name(0))
    indices = site.value(1)
    if cut is None or cut[0] != axis or indices is None:
        return
    size = site.site.shape(0)[axis]
    indices = indices % size
    if indices.ndim == 1:
        indices = indices[np.isin(indices, cut[1])]
    site.inputs[1] = np.searchsorted(cut[1], indices).astype(np.int64)


def _pads(site: Site | Resize) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the amounts of a Pad node: entries before and after each axis."""
    node = site if isinstance(site, Site) else site.site
    amounts = site.parameter(1, "pads")
    if amounts is None:
        return None
    rank = len(node.shape(0))
    before, after = np.zeros((2, rank), int)
    axes = node.value(3)
    axes = np.arange(rank) if axes is None else axes % rank
    before[axes], after[axes] = np.split(amounts, 2)
    return before, after


def _pad(site: Site) -> None:
    """Extend labels; along an axis where they vary, constant entries are channels of their own."""
    labels = site.labels(0)
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
    flat = labels[tuple(slice(None) if i in axes else slice(1) for i in range(labels.ndim))]
    shape = [1] * labels.ndim
    shape[axis] = -1
    pieces = [new[:before].reshape(shape), flat, new[before:].reshape(shape)]
    others = [size if i != axis else -1 for i, size in enumerate(flat.shape)]
    pieces = [np.broadcast_to(p, [p.shape[axis] if s == -1 else s for s in others]) for p in pieces]
    site.set_labels(np.concatenate(pieces, axis))


def _stretched(core: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    """Shape to broadcast to; the full one wherever the core has length 1."""
    return tuple(f if c == 1 else c for c, f in zip(core, full, strict=True))


def _resize_pad(site: Resize) -> None:
    cut = site.kept(site.site.output_name())
    amounts = _pads(site.site)
    if cut is None or amounts is None:
        return
    axis, kept = cut
    before, after = (int(a[axis]) for a in amounts)
    if not before and not after:
        return
    size = site.site.shape(0)[axis]
    new_before = int((kept < before).sum())
    new_after = int((kept >= before + size).sum())
    listed = np.array(site.parameter(1, "pads"))
    axes = site.site.value(3)
    rank = len(site.site.shape(0))
    place = axis if axes is None else int(np.flatnonzero(axes % rank == axis)[0])
    listed[place], listed[place + len(listed) // 2] = new_before, new_after
    site.set_parameter(1, "pads", listed)


SELECTION: dict[str, Rule] = {
    "Slice": movement(_slice, _resize_slice),
    "Split": Rule(_split, _resize_split, moves=True),
    "Gather": movement(_gather, _resize_gather),
    "Pad": Rule(_pad, _resize_pad),
}
