"""Attention and RotaryEmbedding: what goes is a head, with all of its entries.

Where several heads of queries share one of keys and values, these go together.
"""

import numpy as np

from onnx_reap.graph.labels.labels import LabelArray, along
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.rule import Rule

QUERIES, KEYS, VALUES, MASK = 0, 1, 2, 3
COUNTS = {QUERIES: "q_num_heads", KEYS: "kv_num_heads", VALUES: "kv_num_heads"}


def _attention(site: Site) -> None:
    sides = (QUERIES, KEYS, VALUES)
    if any(site.has_input(index) for index in range(MASK + 1, len(site.node.inputs))):
        site.freeze_inputs("Attention with a cache of keys and values, or with padding")
        return
    mask = site.shape(MASK) if site.has_input(MASK) else ()
    if len(mask) > 2 and mask[-3] > 1:
        site.freeze_inputs("Attention with a mask for every head")
        return
    q, k, v = (_heads(site, index, COUNTS[index]) for index in sides)
    site.unite(k, v)
    # Rows of the table: heads of queries that share a head of keys and values.
    site.unite(q.reshape(len(k), -1), k[:, None])
    if site.has_input(MASK):
        site.freeze(site.labels(MASK), "Attention's mask")
    _set_heads(site, q, 0)
    for index, heads in ((1, k), (2, v), (3, q)):
        if site.has_output(index):
            site.set_labels(along(heads, site.output_shape(index), 1), index)
    length, size = site.shape(KEYS)[-2], _size(site, KEYS)
    site.product(length * (1 + size / _size(site, VALUES)))


def _heads(site: Site, index: int, attribute: str) -> LabelArray:
    """Unite what an input holds of each head; return the heads, one label each."""
    labels = site.labels(index)
    if labels.ndim == 4:
        return site.uniform(labels, [0, 2, 3]).reshape(-1)
    entries = site.uniform(labels, [0, 1]).reshape(int(site.attribute(attribute)), -1)
    site.unite(entries, entries[:, :1])
    return entries[:, 0]


def _set_heads(site: Site, heads: LabelArray, index: int) -> None:
    """Give an output the labels of heads."""
    shape = site.output_shape(index)
    if len(shape) == 4:
        site.set_labels(along(heads, shape, 1), index)
    else:
        site.set_labels(along(np.repeat(heads, shape[2] // len(heads)), shape, 2), index)


def _size(site: Site, index: int) -> int:
    """Return the entries of one head."""
    shape = site.shape(index)
    return shape[3] if len(shape) == 4 else shape[2] // int(site.attribute(COUNTS[index]))


def _correct_attention(node: Correction) -> None:
    for index in (QUERIES, KEYS):
        _correct_count(node, index, COUNTS[index])


def _correct_count(node: Correction, index: int, name: str) -> None:
    """Count the heads that an input of three axes still holds."""
    old, new = node.before.shape(index), node.shape(index)
    if len(old) == 3 and old != new:
        node.node.attrs[name] = new[2] * int(node.attribute(name)) // old[2]


def _rotary_embedding(site: Site) -> None:
    labels = site.labels()
    site.freeze_inputs("RotaryEmbedding's angles", site.inputs()[1:])
    if labels.ndim == 3 and not site.attribute("num_heads", 0):
        site.freeze(labels, "RotaryEmbedding of one head")
        return
    _set_heads(site, _heads(site, 0, "num_heads"), 0)


def _correct_rotary(node: Correction) -> None:
    _correct_count(node, 0, "num_heads")


ATTENTION: dict[str, Rule] = {
    "Attention": Rule(_attention, _correct_attention),
    "RotaryEmbedding": Rule(_rotary_embedding, _correct_rotary),
}
