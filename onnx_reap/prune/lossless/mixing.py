"""What a layer makes of channels: rows of weights over the signals that arrive."""

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.labels.records import Linear
from onnx_reap.prune.lossless.values import (
    Content,
    Floats,
    alike,
    joined,
    norms_of,
    numbered,
    unknown,
)


def keeps_constants(linear: Linear, node: gs.Node) -> bool:
    """Whether every output sees a constant input in full: no padding, no transposed strides."""
    by_size = str(node.attrs.get("auto_pad", "")).startswith("SAME") and linear.taps > 1
    return not (linear.transposed or any(linear.pads) or by_size)


def mix(
    linear: Linear,
    weight: np.ndarray,
    bias: np.ndarray | None,
    x: Content,
    numbers: Iterator[int],
    *,
    exact: bool,
) -> Content:
    """Return what a layer's output holds.

    Weights that read the same signal are added up; what reads constants goes to the bias where
    all positions see them, and counts as a signal otherwise.

    Parameters
    ----------
    weight : array
        As it is stored.
    x : Content
        Of the layer's input.
    numbers : iterator of int
        Gives new signals.
    exact : bool
        Whether the layer keeps constants.
    """
    blocks = _blocks(linear, weight)
    outputs = len(blocks) * len(blocks[0])
    added = np.zeros(outputs)
    if bias is not None and linear.beta:
        plain = bias.astype(np.float64).reshape(-1, bias.shape[-1] if bias.ndim else 1)
        if len(plain) > 1 or not np.isfinite(plain).all():  # several: differs between samples
            return unknown(outputs, numbers)
        added = added + linear.beta * plain[0]
    parts = []
    each = np.split(np.arange(len(x.signal)), linear.group)
    for block, read, shift in zip(blocks, each, np.split(added, linear.group), strict=True):
        rows, constant = _folded(block * linear.alpha, x.at(read), exact)
        parts.append(_content(rows, constant + shift, numbers))
    return joined(parts)


def _blocks(linear: Linear, weight: np.ndarray) -> list[np.ndarray]:
    """Return the weights of every group as (outputs, inputs, taps)."""
    weight = weight if weight.dtype.itemsize >= 4 else weight.astype(np.float32)
    return [
        (b if linear.weight_out == 0 else b.swapaxes(0, 1)).reshape(
            b.shape[linear.weight_out], b.shape[linear.weight_in], -1
        )
        for b in np.split(weight, linear.group)
    ]


def _folded(block: np.ndarray, x: Content, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients by signal and tap, (outputs, D), and what constants add, (outputs,)."""
    order = np.argsort(x.signal, kind="stable")[np.count_nonzero(x.signal == 0) :]
    starts = np.flatnonzero(np.diff(x.signal[order], prepend=0))
    read = block[:, order]
    if len(starts) < len(order):
        read = np.add.reduceat(read, starts, axis=1)
    rows = read.reshape(len(block), -1)
    constant = np.einsum("oit,i->ot", block, x.fixed)
    if exact:
        return rows, constant.sum(axis=1)
    return np.concatenate([rows, constant.astype(rows.dtype)], axis=1), np.zeros(len(block))


def _content(rows: np.ndarray, constant: Floats, numbers: Iterator[int]) -> Content:
    norms = norms_of(rows)
    if not np.isfinite(norms).all() or not np.isfinite(constant).all():
        return unknown(len(rows), numbers)
    first = alike([np.zeros(len(rows), np.int64)], [rows, constant])
    return Content(np.where(norms > 0, numbered(first, numbers), 0), constant, norms)
