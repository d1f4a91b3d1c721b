"""Data movement: executed on the labels themselves."""

from collections.abc import Callable

import numpy as np

from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.graph.labels.labels import LabelArray, collapse, first_along, raise_rank
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.rule import Correct, Rule, movement
from onnx_reap.graph.rules.traits import Trait

LARGEST_FILL = 2**16  # entries of a tensor of equal numbers, past which its channels stay


def _identity(site: Site, labels: LabelArray) -> LabelArray:
    return labels


_identity_moving = movement(_identity).flow


def _identity_or_constant(site: Site) -> None:
    """Pass channels through; a constant, such as the state that a loop begins with, has its own."""
    if site.is_constant(0):
        site.set_labels(_of_constant(site))
    else:
        _identity_moving(site)


def _of_constant(site: Site) -> LabelArray:
    """Give the entries of a constant input channels of their own, which follow those it meets."""
    shape = site.shape(0)
    site.bind_aligned(0)
    if not 1 < np.prod(shape) <= LARGEST_FILL:
        return site.labels(0)
    return site.spare_channels(int(np.prod(shape))).reshape(shape)


def _to_output_shape(site: Site, labels: LabelArray) -> LabelArray:
    return labels.reshape(site.output_shape())


def _transpose(site: Site, labels: LabelArray) -> LabelArray:
    return labels.transpose(site.attribute("perm"))


def _depth_to_space(site: Site, labels: LabelArray) -> LabelArray:
    """Spread channels over space; a block of them goes as one, since no block size tells a part."""
    b = site.attribute("blocksize")
    n, c, h, w = labels.shape
    if site.attribute("mode", "DCR") == "DCR":
        split, order = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    moved = labels.reshape(split).transpose(order).reshape(site.output_shape())
    return site.uniform(moved, (2, 3)) if 1 in site.varying(labels) else moved


def _space_to_depth(site: Site, labels: LabelArray) -> LabelArray:
    """Gather space into channels; of what lies along space, whole blocks go."""
    b = site.attribute("blocksize")
    if across := 1 in site.varying(labels):
        labels = np.broadcast_to(site.uniform(labels, (2, 3)), labels.shape)
    n, c, h, w = labels.shape
    split = labels.reshape(n, c, h // b, b, w // b, b)
    moved = split.transpose(0, 3, 5, 1, 2, 4).reshape(site.output_shape())
    return moved if across else site.uniform(moved, (1,))


def _expand(site: Site, labels: LabelArray) -> LabelArray:
    shape = site.output_shape()
    labels = raise_rank(labels, len(shape))
    if site.varying(labels):
        return np.broadcast_to(labels, shape)
    # One channel spread over an axis is no longer a channel that could go. Its copies may.
    site.freeze(labels, f"{site.op} repeats a single channel")
    grows = site.probe.dynamic.get(site.output_name(), ())
    pairs = enumerate(zip(labels.shape, shape, strict=True))
    core = [n if old == 1 and axis not in grows else 1 for axis, (old, n) in pairs]
    count = int(np.prod(core))
    copies = site.spare_channels(count).reshape(core) if 1 < count <= LARGEST_FILL else labels
    return np.broadcast_to(copies, shape)


def _tile(site: Site, labels: LabelArray) -> LabelArray:
    repeats = site.value(1)
    assert repeats is not None
    core = collapse(labels)
    inner = [int(r) if size > 1 else 1 for r, size in zip(repeats, core.shape, strict=True)]
    return np.broadcast_to(np.tile(core, inner), site.output_shape())


_expand_moving = movement(_expand).flow


# Reshape, Expand and Resize name sizes; those along a cut axis are corrected.


def correct_sizes(index: int, axes: str | None = None) -> Correct:
    """Make the correction of an input that lists the output's sizes, the last ones if not all.

    Parameters
    ----------
    axes : str, optional
        Attribute that tells which axes are listed.
    """

    def correct(node: Correction) -> None:
        cut, listed = node.kept(node.output_name()), node.value(index)
        if cut is None or listed is None or not listed.size:
            return
        new = node.output_shape()
        named = node.attribute(axes) if axes else None
        last = range(len(new) - len(listed), len(new))
        places = [axis % len(new) for axis in (last if named is None else named)]
        if cut[0] in places and listed[place := places.index(cut[0])] not in (1, new[cut[0]]):
            listed = np.array(listed)
            listed[place] = new[cut[0]]
            node.set_input(index, listed)

    return correct


def _correct_reshape(node: Correction) -> None:
    cut, listed = node.kept(node.output_name()), node.parameter(1, "shape")
    assert listed is not None
    zero_copies = not node.attribute("allowzero", 0)
    old, new = node.shape(), node.output_shape()
    if _resolve(listed, old, zero_copies) == new:
        return
    corrected = np.array(listed)
    if cut is not None:
        corrected[cut[0]] = new[cut[0]]
    if _resolve(corrected, old, zero_copies) != new:
        # A size of 0 copies from an axis that may have been cut while this one was not, and a
        # computed size may divide what the cut divided along another axis.
        stays = [size == -1 or (size == 0 and old[i] == new[i]) for i, size in enumerate(corrected)]
        corrected = np.where(stays, corrected, new)
    if _resolve(corrected, old, zero_copies) != new:
        raise AssertionError(f"{node.key}: no target shape gives {new} from {old}")
    node.set_parameter(1, "shape", corrected)


def _resolve(listed: np.ndarray, shape: tuple[int, ...], zero_copies: bool) -> tuple[int, ...]:
    """Return the shape that a Reshape target means."""
    sizes = [
        shape[i] if size == 0 and zero_copies and i < len(shape) else int(size)
        for i, size in enumerate(listed)
    ]
    if -1 in sizes:
        known = int(np.prod([size for size in sizes if size != -1]))
        total = int(np.prod(shape))
        sizes[sizes.index(-1)] = total // known if known and total % known == 0 else -1
    return tuple(sizes)


def _correct_squeeze(node: Correction) -> None:
    """Name the axes: a cut to one channel must not make one more axis vanish."""
    if node.parameter(1, "axes") is not None:
        return
    axes = np.flatnonzero(np.array(node.before.shape()) == 1)
    if node.opset < 13:
        node.node.attrs["axes"] = axes.tolist()
    else:
        node.set_input(1, axes)


def _fill(shape_input: int) -> Callable[[Site], None]:
    """Make the flow of nodes that fill a shape with one number: each entry may go or stay."""

    def flow(site: Site) -> None:
        grows = site.probe.dynamic.get(site.output_name(), ())
        core = [1 if axis in grows else n for axis, n in enumerate(site.output_shape())]
        if site.value(shape_input) is None or np.prod(core) > LARGEST_FILL:
            site.set_labels(site.no_labels())
            return
        site.set_labels(site.spare_channels(int(np.prod(core))).reshape(core))

    return flow


def _expand_or_fill(site: Site) -> None:
    if not site.is_constant(0) or not is_floating(site.node.inputs[0]):
        _expand_moving(site)
        return
    if np.prod(site.shape(0)) > 1 and site.value(1) is not None:
        site.set_labels(np.broadcast_to(_of_constant(site), site.output_shape()))
        return
    site.ignore(0)
    _fill(1)(site)


def _correct_filled(node: Correction) -> None:
    """Restore sizes that were measured on tensors of other channels."""
    listed, new = node.value(0), np.array(node.output_shape())
    if listed is not None and not np.array_equal(listed, new):
        node.set_input(0, new)


def _concat(site: Site) -> None:
    axis = site.axis(site.attribute("axis", 1))
    parts = [site.labels(index) for index in site.inputs()]
    # Axes along which no part varies stay views.
    flat = [i for i in range(parts[0].ndim) if i != axis and all(p.strides[i] == 0 for p in parts)]
    site.set_labels(np.concatenate([first_along(part, flat) for part in parts], axis))


def _cast_like(site: Site) -> None:
    site.ignore(1)
    site.set_labels(site.labels())


_RESHAPING = Trait.SAME_ENTRIES | Trait.KEEPS_CONSTANTS

MOVEMENT: dict[str, Rule] = {
    "Identity": Rule(_identity_or_constant, traits=Trait.MOVES | _RESHAPING | Trait.SAME_ORDER),
    "Cast": movement(_identity, traits=Trait.SAME_ORDER | Trait.KEEPS_CONSTANTS),
    "CastLike": Rule(_cast_like, traits=Trait.MOVES),
    "Reshape": movement(
        _to_output_shape, _correct_reshape, _RESHAPING | Trait.REGROUPS | Trait.SAME_ORDER
    ),
    "Flatten": movement(_to_output_shape, traits=_RESHAPING | Trait.REGROUPS | Trait.SAME_ORDER),
    "Squeeze": movement(
        _to_output_shape, _correct_squeeze, _RESHAPING | Trait.PICKS | Trait.SAME_ORDER
    ),
    "Unsqueeze": movement(_to_output_shape, traits=_RESHAPING | Trait.PICKS),
    "Transpose": movement(_transpose, traits=_RESHAPING | Trait.PICKS),
    "DepthToSpace": movement(_depth_to_space, traits=Trait.REGROUPS),
    "SpaceToDepth": movement(_space_to_depth, traits=Trait.REGROUPS),
    "Expand": Rule(_expand_or_fill, correct_sizes(1), Trait.MOVES | Trait.FILLS),
    "Tile": movement(_tile),
    "Concat": Rule(_concat, traits=Trait.MOVES | Trait.PICKS | Trait.ALONG_AXIS),
    "ConstantOfShape": Rule(_fill(0), _correct_filled, Trait.FILLS),
}
