"""A layer as a regression: sampled output positions are rows, input patches are columns.

Every linear node, whatever its operator, is `g` independent maps `Y = X W + b` side by side with
`X` of shape (g, n, D), `W` (g, D, O) and `Y` (g, n, O); g is 1 but for grouped and depthwise
convolutions. Column `c * taps + t` of X is input channel c (in its group) under kernel position t;
a transposed convolution reads zeros wherever no input meets a tap.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.runner import run_batches
from onnx_reap.measure.samples import in_front_of_samples
from onnx_reap.onnxio.dtypes import cast

Rows = npt.NDArray[np.floating]


def sample_positions(
    linear: Linear, y_shape: tuple[int, ...], limit: int, rng: np.random.Generator
) -> np.ndarray:
    """Choose output positions of a batch: equally far from each other, from a random start.

    Parameters
    ----------
    y_shape : tuple of int
        Shape of the node's output, batch first.
    limit : int
        Positions per sample at most; all are taken if there are no more.

    Returns
    -------
    (N, P) int64 array
        Flat spatial positions of each sample; for Gemm and MatMul (1, P) flat row numbers.
    """
    if linear.kernel:
        samples, total = y_shape[0], int(np.prod(y_shape[2:]))
    else:
        samples, total = 1, int(np.prod(y_shape[: linear.y_axis]))
        limit *= y_shape[0]
    return evenly_spaced(samples, total, limit, rng)


def evenly_spaced(samples: int, total: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Choose at most `limit` of so many positions, (samples, P), each from a random start."""
    if total <= limit:
        return np.broadcast_to(np.arange(total), (samples, total))
    offset = rng.random((samples, 1))
    return ((np.arange(limit) + offset) * (total / limit)).astype(np.int64)


def output_shape(
    linear: Linear, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the shape of a node's output for an input, given that of some run."""
    if not linear.kernel:
        return *x_shape[:-1], y_shape[-1]
    spatial = map(
        _transposed_length if linear.transposed else _convolved_length,
        x_shape[2:],
        [(k - 1) * d + 1 for k, d in zip(linear.kernel, linear.dilations, strict=True)],
        linear.strides,
        np.reshape(linear.pads, (2, -1)).sum(0).tolist(),
        y_shape[2:],
    )
    return x_shape[0], y_shape[1], *spatial


def _convolved_length(size: int, reach: int, stride: int, pads: int, _: int) -> int:
    return (size + pads - reach) // stride + 1


def _transposed_length(size: int, reach: int, stride: int, pads: int, other: int) -> int:
    """Return the length for a size; another length tells what is added behind the last position."""
    return (size - 1) * stride + reach - pads + (other - reach + pads) % stride


def finite(linear: Linear, rows: Rows) -> Rows:
    """Return rows as float32 (float64 stays), refusing any that hold NaN or infinity.

    Raises
    ------
    ReapError
    """
    if not np.isfinite(rows).all():
        raise not_finite(linear)
    return rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)


def not_finite(linear: Linear) -> ReapError:
    """Tell that a layer's numbers, or the squares of them, are too large, as an error to raise."""
    return ReapError(
        f"{linear.node}: NaN or infinite values at this layer",
        expected="finite activations on all calibration samples",
        hint="check the data's range (--scale, --mean, --std) and the model's weights",
    )


def input_rows(linear: Linear, x: np.ndarray, y_shape: tuple[int, ...], at: np.ndarray) -> Rows:
    """Gather input patches, (g, N * P, D), at (N, P) positions from `sample_positions`.

    `y_shape` is the shape of the node's output, of which the spatial part is used.
    """
    if not linear.kernel:
        result: Rows = x.reshape(-1, x.shape[-1])[at[0]][None]
        return result
    offsets, padded = _patch_geometry(linear, x, y_shape[2:])
    n, channels = padded.shape[:2]
    coordinates = np.unravel_index(at, y_shape[2:])
    step = (1,) * len(linear.kernel) if linear.transposed else linear.strides
    corner = np.ravel_multi_index(
        tuple(c * s for c, s in zip(coordinates, step, strict=True)), padded.shape[2:]
    )
    patches = _pick(padded, (corner[:, :, None] + offsets).reshape(len(corner), -1))
    patches = patches.reshape(n, linear.group, channels // linear.group, at.shape[1], linear.taps)
    patches = patches.transpose(1, 0, 3, 2, 4)
    return patches.reshape(linear.group, n * at.shape[1], -1)


def sampled_rows(
    analysis: Analysis,
    layers: Sequence[tuple[Linear, int]],
    samples: Calibration,
    seed: int,
    on_batch: Callable[[int], object] | None,
) -> Iterator[tuple[Linear, Rows]]:
    """Run the model on all samples; yield of every batch each layer's (g, n, D) input patches.

    Layers come with the largest number of positions per sample.
    """
    names = list(dict.fromkeys(linear.x for linear, _ in layers))
    if not names:
        return
    rng, model = np.random.default_rng(seed), analysis.model.to_run()
    runs = run_batches(
        analysis,
        [model],
        samples,
        outputs=names,
        in_front=_in_front(analysis, [linear for linear, _ in layers], samples),
        on_batch=on_batch,
    )
    for _, (values,) in runs:
        for linear, limit in layers:
            some = analysis.probe.shapes[linear.y]
            yield linear, sampled_patches(linear, values[linear.x], some, limit, rng)


def _in_front(analysis: Analysis, layers: Sequence[Linear], samples: Calibration) -> dict[str, int]:
    """Count what lies in front of the samples in layers' inputs, where a batch is padded."""
    if len(samples) % (analysis.fixed_batch or 1) == 0:
        return {}
    found = in_front_of_samples(analysis, layers)
    return {layer.x: found[layer.y] for layer in layers if layer.y in found}


def sampled_patches(
    linear: Linear, x: Rows, y_shape: Sequence[int], limit: int, rng: np.random.Generator
) -> Rows:
    """Sample output positions of a batch, and gather their input patches, (g, n, D).

    `y_shape` is that of the output in some batch.
    """
    out = output_shape(linear, x.shape, tuple(y_shape))
    at = sample_positions(linear, out, limit, rng)
    return finite(linear, input_rows(linear, x, out, at))


def _patch_geometry(
    linear: Linear, x: np.ndarray, out: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Pad x so that patches stay inside; return flat tap offsets (taps,) and the padded array.

    Output position o reads input position o * stride + tap * dilation - pad. A transposed
    convolution reads o + pad - tap * dilation of its input with stride - 1 zeros between entries.
    """
    rank = len(linear.kernel)
    begin = linear.pads[:rank]
    reach = [(k - 1) * d for k, d in zip(linear.kernel, linear.dilations, strict=True)]
    taps = np.indices(linear.kernel).reshape(rank, -1)
    taps = taps * np.array(linear.dilations)[:, None]
    if linear.transposed:
        x = _zeros_between(x, linear.strides)
        low = [r - b for r, b in zip(reach, begin, strict=True)]
        last = [o - 1 + b for o, b in zip(out, begin, strict=True)]
        taps = np.array(reach)[:, None] - taps
    else:
        low = list(begin)
        last = [
            (o - 1) * s + r - b
            for o, s, r, b in zip(out, linear.strides, reach, begin, strict=True)
        ]
    high = [max(end - (size - 1), 0) for end, size in zip(last, x.shape[2:], strict=True)]
    crop = tuple(slice(max(-amount, 0), None) for amount in low)
    x = x[(slice(None), slice(None), *crop)]
    widths = [(0, 0), (0, 0), *((max(a, 0), b) for a, b in zip(low, high, strict=True))]
    padded = np.pad(x, widths) if np.any(widths) else x
    return np.ravel_multi_index(tuple(taps), padded.shape[2:]), padded


def _pick(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Take flat spatial positions, (N, P), of each of N samples: (N, channels, P)."""
    n, channels = x.shape[:2]
    flat = x.reshape(n, channels, -1)
    assert at.size == 0 or at.max() < flat.shape[2]
    picked = np.empty((n, channels, at.shape[1]), x.dtype)
    for sample, out, spots in zip(flat, picked, at, strict=True):
        np.take(sample, spots, axis=1, out=out, mode="clip")  # mode "raise" copies once more
    return picked


def _zeros_between(x: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    sizes = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], strides, strict=True)]
    out = np.zeros((*x.shape[:2], *sizes), x.dtype)
    out[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    return out


def output_rows(
    linear: Linear, y: np.ndarray, at: np.ndarray, channels: np.ndarray | None = None
) -> Rows:
    """Gather outputs, (g, N * P, O), at (N, P) sampled positions.

    Parameters
    ----------
    channels : (O,) int array, optional
        The node's outputs among those of `y`; all of them by default.
    """
    if not linear.kernel:
        rows = y.reshape(-1, y.shape[-1])[at[0]]
        result: Rows = (rows if channels is None else rows[:, channels])[None]
        return result
    n = len(y)
    picked = _pick(y, at)
    if channels is not None:
        picked = picked[:, channels]
    picked = picked.reshape(n, linear.group, -1, at.shape[1])
    return picked.transpose(1, 0, 3, 2).reshape(linear.group, n * at.shape[1], -1)


def weight_to_matrix(linear: Linear, weight: np.ndarray) -> npt.NDArray[np.float64]:
    """Return a weight as (g, D, O) float64, the factor alpha included."""
    weight = weight.astype(np.float64) * linear.alpha
    if not linear.kernel:
        inputs = weight.shape[linear.weight_in]
        return np.moveaxis(weight, linear.weight_in, 0).reshape(1, inputs, -1)
    blocks = weight.reshape(linear.group, weight.shape[0] // linear.group, weight.shape[1], -1)
    order = (0, 1, 3, 2) if linear.transposed else (0, 2, 3, 1)
    blocks = blocks.transpose(order)
    return blocks.reshape(linear.group, -1, blocks.shape[-1])


def matrix_to_weight(linear: Linear, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Undo `weight_to_matrix`; the result has the shape and dtype of `like`."""
    matrix = matrix / linear.alpha
    if not linear.kernel:
        others = np.delete(like.shape, linear.weight_in)
        weight = np.moveaxis(matrix[0].reshape(-1, *others), 0, linear.weight_in)
    else:
        first, second = like.shape[0] // linear.group, like.shape[1]
        ins, outs = (first, second) if linear.transposed else (second, first)
        blocks = matrix.reshape(linear.group, ins, linear.taps, outs)
        order = (0, 1, 3, 2) if linear.transposed else (0, 3, 1, 2)
        weight = blocks.transpose(order).reshape(like.shape)
    return cast(np.ascontiguousarray(weight), like.dtype)
