"""What a layer makes of channels: rows of weights over the signals that arrive."""

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.labels.records import Linear
from onnx_reap.prune.lossless.rows import norms_of, parallel
from onnx_reap.prune.lossless.values import Form, Signals


def keeps_constants(linear: Linear, node: gs.Node) -> bool:
    """Whether every output sees a constant input in full: no padding, no transposed strides."""
    by_size = str(node.attrs.get("auto_pad", "")).startswith("SAME") and linear.taps > 1
    return not (linear.transposed or any(linear.pads) or by_size)


def mix(
    linear: Linear,
    weight: np.ndarray,
    bias: np.ndarray | None,
    x: Form,
    signals: Signals,
    *,
    exact: bool,
) -> Form:
    """Return the form of a layer's output.

    Weights that read the same signal are added up; what reads constants goes to the bias where
    all positions see them, and counts as a signal otherwise.

    Parameters
    ----------
    weight : array
        As it is stored.
    bias : array, optional
    x : Form
        Of the layer's input.
    exact : bool
        Whether the layer keeps constants.
    """
    parts = []
    for block, part in zip(_blocks(linear, weight), _parts(x, linear.group), strict=True):
        rows, shift = _folded(block * linear.alpha if linear.alpha != 1 else block, part, exact)
        parts.append(_form(rows, shift, signals))
    arrays = ([getattr(p, name) for p in parts] for name in ("signal", "scale", "offset"))
    signal, scale, offset = (np.concatenate(each) for each in arrays)
    if bias is not None and linear.beta:
        plain = bias.astype(np.float64).reshape(-1, bias.shape[-1] if bias.ndim else 1)
        if len(plain) > 1 or not np.isfinite(plain).all():  # several: differs between samples
            return signals.unknown(len(signal))
        offset = offset + linear.beta * plain[0]
    return Form.of(signal, scale, offset)


def _blocks(linear: Linear, weight: np.ndarray) -> list[np.ndarray]:
    """Return the weights of every group as (outputs, inputs, taps)."""
    weight = weight if weight.dtype.itemsize >= 4 else weight.astype(np.float32)
    blocks = np.split(weight, linear.group, axis=0) if linear.group > 1 else [weight]
    return [
        (b if linear.weight_out == 0 else b.swapaxes(0, 1)).reshape(
            b.shape[linear.weight_out], b.shape[linear.weight_in], -1
        )
        for b in blocks
    ]


def _parts(x: Form, group: int) -> list[Form]:
    return [x.at(positions) for positions in np.split(np.arange(len(x.signal)), group)]


def _folded(block: np.ndarray, x: Form, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients by signal and tap, (outputs, D), and what constants add, (outputs,)."""
    outputs = len(block)
    shift = np.zeros(outputs)
    found, count = np.unique(x.signal, return_counts=True)
    plain = (found > 0).all() and (count == 1).all() and (x.scale == 1).all()
    rows = [block.reshape(outputs, -1)]
    if not plain:
        order = np.argsort(x.signal, kind="stable")[count[0] if found[0] == 0 else 0 :]
        starts = np.flatnonzero(np.diff(x.signal[order], prepend=-1))
        read = block[:, order]
        if (x.scale[order] != 1).any():
            read = read * x.scale[order, None]
        rows = [
            (np.add.reduceat(read, starts, axis=1) if len(order) else read).reshape(outputs, -1)
        ]
    if x.offset.any():
        constant = np.einsum("oit,i->ot", block, x.offset)
        if exact:
            shift = constant.sum(axis=1)
        else:
            rows.append(constant)
    return (rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)), shift


def _form(rows: np.ndarray, shift: np.ndarray, signals: Signals) -> Form:
    norms = norms_of(rows)
    if not np.isfinite(norms).all() or not np.isfinite(shift).all():
        return signals.unknown(len(rows))
    like, factor = parallel(rows)
    own = np.flatnonzero(like == np.arange(len(rows))).tolist()
    new = {i: signals.new(float(norms[i])) for i in own} | {-1: 0}
    signal = np.array([new[i] for i in like.tolist()], np.int64)
    return Form.of(signal, factor, shift)
