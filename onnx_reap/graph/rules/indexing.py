"""Entries picked or written at places that data tell: channels along other axes pass through."""

import numpy as np

from onnx_reap.graph.labels.labels import LabelArray, first_along
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.traits import Trait

DATA, INDICES, UPDATES = 0, 1, 2


def gather_by_data(site: Site) -> None:
    """Let channels pass a Gather whose indices are not known, unless it picks among them."""
    axis, rank = site.axis(site.attribute("axis", 0)), len(site.shape(INDICES))
    labels = _not_along(site, DATA, [axis])
    site.freeze(site.labels(INDICES), f"{site.op} takes them for places")
    picked = first_along(labels, [axis]).squeeze(axis)
    site.set_labels(np.expand_dims(picked, tuple(range(axis, axis + rank))))


def _gather_nd(site: Site) -> None:
    batch, length = int(site.attribute("batch_dims", 0)), site.shape(INDICES)[-1]
    indexed = range(batch + length)
    labels = first_along(_not_along(site, DATA, indexed), indexed)
    site.freeze(site.labels(INDICES), f"{site.op} takes them for places")
    rest = labels.reshape(labels.shape[batch + length :])
    lead = len(site.output_shape()) - rest.ndim
    site.set_labels(np.expand_dims(rest, tuple(range(lead))))


def _gather_elements(site: Site) -> None:
    """Let every entry go with its index: both are told apart by all other axes."""
    axis = site.axis(site.attribute("axis", 0))
    if (thin := _aligned(site, (DATA, INDICES), axis)) is not None:
        site.set_labels(thin)


def _scatter_elements(site: Site) -> None:
    axis = site.axis(site.attribute("axis", 0))
    if (thin := _aligned(site, (DATA, INDICES, UPDATES), axis)) is not None:
        site.set_labels(thin)


def _scatter_nd(site: Site) -> None:
    """Write slices: what an index names are places, what is behind them may be channels."""
    length, lead = site.shape(INDICES)[-1], len(site.shape(INDICES)) - 1
    data = first_along(_not_along(site, DATA, range(length)), range(length))
    updates = first_along(_not_along(site, UPDATES, range(lead)), range(lead))
    site.freeze(site.labels(INDICES), f"{site.op} takes them for places")
    rest = data.shape[length:]
    site.unite(data.reshape(rest), updates.reshape(rest))
    site.set_labels(data)


def _top_k(site: Site) -> None:
    axis = site.axis(site.attribute("axis", -1))
    labels = first_along(_not_along(site, DATA, [axis]), [axis])
    site.value(1)
    for index in range(2):
        site.set_labels(labels, index)


def _not_along(site: Site, index: int, axes: range | list[int]) -> LabelArray:
    """Return the labels of an input, frozen if they vary along axes that are indexed."""
    labels = site.labels(index)
    if {*axes} & {*site.varying(labels)}:
        site.freeze(labels, f"{site.op} picks among channels by data")
        return np.broadcast_to(np.int64(0), labels.shape)
    return np.broadcast_to(site.uniform(labels, axes), labels.shape)


def _aligned(site: Site, indices: tuple[int, ...], axis: int) -> LabelArray | None:
    """Unite inputs that lie beside each other along all axes but one; None where they don't."""
    shapes = [site.shape(i)[:axis] + site.shape(i)[axis + 1 :] for i in indices]
    arrays = [first_along(_not_along(site, index, [axis]), [axis]) for index in indices]
    if any(shape != shapes[0] for shape in shapes):
        for array in arrays:
            site.freeze(array, f"{site.op} of which a part is left alone")
        site.set_labels(site.no_labels())
        return None
    for array in arrays[1:]:
        site.unite(arrays[0], array)
    return arrays[0]


INDEXING: dict[str, Rule] = {
    "GatherElements": Rule(_gather_elements, traits=Trait.SELECTS | Trait.INDEXES),
    "GatherND": Rule(_gather_nd, traits=Trait.SELECTS | Trait.INDEXES_DEEP),
    "ScatterElements": Rule(_scatter_elements, traits=Trait.INDEXES),
    "ScatterND": Rule(_scatter_nd, traits=Trait.INDEXES_DEEP),
    "TopK": Rule(_top_k, traits=Trait.JUMPS),
}
