"""Data movement: executed on the labels themselves."""

from __future__ import annotations

import numpy as np

from ..labels import LabelArray, collapse
from ..site import Resize, Site
from .rule import Rule, movement


def _identity(site: Site, labels: LabelArray) -> LabelArray:
    return labels


def _to_output_shape(site: Site, labels: LabelArray) -> LabelArray:
    return labels.reshape(site.output_shape())


def _transpose(site: Site, labels: LabelArray) -> LabelArray:
    return labels.transpose(site.attribute("perm"))


def _depth_to_space(site: Site, labels: LabelArray) -> LabelArray:
    b = site.attribute("blocksize")
    n, c, h, w = labels.shape
    if site.attribute("mode", "DCR") == "DCR":
        split, order = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return labels.reshape(split).transpose(order).reshape(site.output_shape())


def _space_to_depth(site: Site, labels: LabelArray) -> LabelArray:
    b = site.attribute("blocksize")
    n, c, h, w = labels.shape
    split = labels.reshape(n, c, h // b, b, w // b, b)
    return split.transpose(0, 3, 5, 1, 2, 4).reshape(site.output_shape())


def _expand(site: Site, labels: LabelArray) -> LabelArray:
    shape = site.output_shape()
    labels = labels.reshape((1,) * (len(shape) - labels.ndim) + labels.shape)
    if not site.varying(labels):
        # One channel spread over an axis is no longer a channel that could go.
        site.freeze(labels, f"{site.op} repeats a single channel")
    return np.broadcast_to(labels, shape)


def _tile(site: Site, labels: LabelArray) -> LabelArray:
    repeats = site.value(1)
    core = collapse(labels)
    if repeats is None:
        return np.broadcast_to(np.int64(0), site.output_shape())
    inner = [int(r) if size > 1 else 1 for r, size in zip(repeats, core.shape, strict=True)]
    return np.broadcast_to(np.tile(core, inner), site.output_shape())


# Reshape, Expand and Resize name sizes; those along a cut axis are corrected.


def resize_shape_input(index: int, attribute: str = "shape", offset: int = 0) -> object:
    """Make a resize function for an input that lists the output's sizes."""

    def resize(site: Resize) -> None:
        output = site.site.output_name()
        cut = site.kept(output)
        listed = site.parameter(index, attribute)
        if cut is None or listed is None or not listed.size:
            return
        new = site.new_shape(output)
        position = cut[0] - (len(new) - len(listed))
        if position >= 0 and listed[position] not in (-1, new[cut[0]]):
            listed = np.array(listed)
            listed[position] = new[cut[0]]
            site.set_parameter(index, attribute, listed)

    return resize


def _resize_reshape(site: Resize) -> None:
    output = site.site.output_name()
    cut = site.kept(output)
    listed = site.parameter(1, "shape")
    if listed is None:
        return
    old = site.new_shape(site.site.name(0))
    new = site.new_shape(output)
    if _resolve(listed, old, bool(site.site.attribute("allowzero", 0))) == new:
        return
    corrected = np.array(listed)
    if cut is not None:
        corrected[cut[0]] = new[cut[0]]
    if _resolve(corrected, old, bool(site.site.attribute("allowzero", 0))) != new:
        # A size of 0 copies from an axis that may have been cut while this one was not.
        zero = np.flatnonzero(corrected == 0)
        changed = [i for i in zero if i < len(old) and old[i] != new[i]]
        corrected[changed] = [new[i] for i in changed]
    if _resolve(corrected, old, bool(site.site.attribute("allowzero", 0))) != new:
        raise AssertionError(f"{site.site.key}: no target shape gives {new} from {old}")
    site.set_parameter(1, "shape", corrected)


def _resolve(listed: np.ndarray, shape: tuple[int, ...], allow_zero: bool) -> tuple[int, ...]:
    """Return the shape that a Reshape target means."""
    sizes = [
        shape[i] if size == 0 and not allow_zero and i < len(shape) else int(size)
        for i, size in enumerate(listed)
    ]
    if -1 in sizes:
        known = int(np.prod([size for size in sizes if size != -1]))
        total = int(np.prod(shape))
        sizes[sizes.index(-1)] = total // known if known and total % known == 0 else -1
    return tuple(sizes)


def _resize_squeeze(site: Resize) -> None:
    """Name the axes: a cut to one channel must not make one more axis vanish."""
    if site.parameter(1, "axes") is None:
        shape = site.site.shape(0)
        axes = np.array([axis for axis, size in enumerate(shape) if size == 1], np.int64)
        if site.site.opset < 13:
            site.node.attrs["axes"] = axes.tolist()
        else:
            site.set_parameter(1, "axes", axes)


def _concat(site: Site) -> None:
    axis = site.axis(site.attribute("axis", 1))
    parts = [site.labels(i) for i in range(len(site.node.inputs)) if site.has_input(i)]
    rank = parts[0].ndim
    # Axes along which no part varies stay views.
    flat = [i for i in range(rank) if i != axis and all(p.strides[i] == 0 for p in parts)]
    thin = [
        part[tuple(slice(1) if i in flat else slice(None) for i in range(rank))] for part in parts
    ]
    site.set_labels(np.concatenate(thin, axis))


MOVEMENT: dict[str, Rule] = {
    "Identity": movement(_identity),
    "Cast": movement(_identity),
    "CastLike": movement(_identity),
    "Reshape": movement(_to_output_shape, _resize_reshape),
    "Flatten": movement(_to_output_shape),
    "Squeeze": movement(_to_output_shape, _resize_squeeze),
    "Unsqueeze": movement(_to_output_shape),
    "Transpose": movement(_transpose),
    "DepthToSpace": movement(_depth_to_space),
    "SpaceToDepth": movement(_space_to_depth),
    "Expand": movement(_expand, resize_shape_input(1)),  # type: ignore[arg-type]
    "Tile": movement(_tile),
    "Concat": Rule(_concat, moves=True),
}
