"""Bases in which a layer's outputs need few coordinates, chosen by the data that it sees.

Of a layer Y = X W, with X centred, G = X^T X / n and S = diag(scale), the rank r approximation of
Y S of least squared error projects it on the r eigenvectors U of largest eigenvalue of its moment,

    S W^T G W S,        W = (W S U) (U^T S^-1),

and the error is the sum of the other eigenvalues. With all of them the product is W itself.

A kernel of k_h x k_w taps over C channels may as well be a map of vertical slices (C k_h values) to
what they add to k_w outputs each; a basis for these is found in the same way, from the moment of
slices. It is the better one where taps, rather than channels, are alike.

Channels between linear layers may be written in a basis of their own without any layer more: those
in front make the coordinates, those behind read them. Of layers Y_k = X_k W_k that read them, with
G = sum X_k^T X_k and H = sum W_k W_k^T, each divided by its share in the outputs' variance,
coordinates X H^(1/2) U with the eigenvectors U of H^(1/2) G H^(1/2) lose least.

References
----------
X. Zhang, J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks for Classification
and Detection", TPAMI 38(10), 2016 (channels).
M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up Convolutional Neural Networks with Low Rank
Expansions", BMVC 2014 (space).
S. Ashkboos et al., "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", ICLR
2024 (streams).
Y. Xu et al., "TRP: Trained Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import array_api_compat as compat

from onnx_reap.solve.backend import Array
from onnx_reap.solve.linalg import damped, eigenvectors

FLOOR = 1e-6  # of the mean diagonal: directions that data lacks must not leave the basis
BLURRED = 1e-3  # of the mean diagonal: directions that no layer reads are still made
FAINTEST = 1e-3  # of the largest scale: an output that counts nothing still has to be made


@dataclass(frozen=True)
class Product:
    """A matrix as a product, the columns of the first in the order of what they explain."""

    first: Array  # (D, R) float64
    second: Array  # (R, O) float64
    # (R,) float64: eigenvalues, descending: variance of the scaled outputs along each axis of the
    # basis
    explained: Array


def output_moment(gram: Array, weight: Array) -> Array:
    """Return the second moment of a layer's outputs, (O, O), from that of its inputs."""
    xp = compat.array_namespace(gram, weight)
    return xp.matrix_transpose(weight) @ (gram @ weight)


def factor(weight: Array, moment: Array, scale: Array) -> Product:
    """Write a matrix as a product of full rank whose leading columns explain most.

    Parameters
    ----------
    weight : (D, O) float64 array
    moment : (O, O) float64 array
        Centred second moment of the outputs.
    scale : (O,) float64 array
        What each output counts; signs don't matter.

    Returns
    -------
    Product
        Of R = min(D, O) columns. `first @ second` is `weight`.
    """
    xp = compat.array_namespace(weight, moment)
    scale = xp.abs(scale)
    scale = xp.maximum(scale, FAINTEST * xp.max(scale))
    scale = xp.where(scale > 0, scale, xp.ones_like(scale))
    scaled = weight * scale
    own = xp.matrix_transpose(scaled) @ scaled  # what white noise at the inputs would give
    moment = scale[:, None] * moment * scale
    ratio = xp.linalg.trace(moment) / xp.linalg.trace(own) if float(xp.max(own)) > 0 else 1.0
    # A moment that was measured has rounding outside of what the weight can make at all.
    within, _ = xp.linalg.qr(xp.matrix_transpose(scaled))
    values, vectors = eigenvectors(moment + FLOOR * ratio * own, within)
    explained = xp.maximum(values, xp.zeros_like(values))
    return Product(scaled @ vectors, xp.matrix_transpose(vectors) / scale, explained)


def slice_moment(gram: Array, channels: int, down: int, across: int) -> Array:
    """Return the moment of vertical slices, (C k_h, C k_h), from that of patches."""
    xp = compat.array_namespace(gram)
    rows = channels * down
    blocks = xp.reshape(gram, (rows, across, rows, across))
    return sum(blocks[:, i, :, i] for i in range(across)) / across


def factor_slices(
    weight: Array, gram: Array, scale: Array, channels: int, down: int, across: int
) -> Product:
    """Write a kernel as vertical slices to a basis and the basis to outputs.

    Parameters
    ----------
    weight : (C k_h k_w, O) float64 array
    gram : (C k_h k_w, C k_h k_w) float64 array
        Centred second moment of patches.
    scale : (O,) float64 array

    Returns
    -------
    Product
        `first` is (C k_h, R), `second` (R, k_w O).
    """
    xp = compat.array_namespace(weight, gram)
    rows = channels * down
    matrix = xp.reshape(weight, (rows, across * weight.shape[1]))
    moment = output_moment(damped(slice_moment(gram, channels, down, across), FLOOR), matrix)
    return factor(matrix, moment, xp.tile(scale, (across,)))


def slices_error(
    product: Product, rank: int, weight: Array, gram: Array, scale: Array, across: int
) -> float:
    """Return the error of the scaled outputs made of some slices' coordinates by least squares.

    Parameters
    ----------
    product : Product
        From `factor_slices`.
    rank : int
        Its leading columns that are kept.
    weight, gram, scale : array
        Those that it was made of.
    across : int
        Taps k_w of the second layer.
    """
    xp = compat.array_namespace(weight, gram)
    first = product.first[:, :rank]
    # Patch columns run over (slice, tap across), those of the second layer over (rank, tap).
    taps = xp.eye(across, dtype=first.dtype, device=compat.device(first))
    reads = first[:, None, :, None] * taps[None, :, None, :]
    reads = xp.reshape(reads, (gram.shape[0], rank * across))
    inner = output_moment(gram, reads)
    cross = xp.matrix_transpose(reads) @ (gram @ (weight * scale))
    fitted = xp.linalg.solve(damped(inner, FLOOR), cross)
    whole = xp.linalg.trace(output_moment(gram, weight * scale))
    return max(float(whole - xp.sum(cross * fitted)), 0.0)


def stream_basis(grams: Sequence[Array], reads: Sequence[Array]) -> tuple[Array, Array]:
    """Return coordinates of channels that layers read, in descending order of their effect.

    Parameters
    ----------
    grams : sequence of (C, C) float64 array
        By layer, centred second moment of the channels.
    reads : sequence of (C, O) float64 array
        By layer, what it makes of them, the scale of its outputs included.

    Returns
    -------
    into, back : (C, C) float64 array
        Coordinates of channels x are `x @ into`, and channels of coordinates z are `z @ back`.
    """
    xp = compat.array_namespace(*grams, *reads)
    moment, sensitivity = xp.zeros_like(grams[0]), xp.zeros_like(grams[0])
    for gram, read in zip(grams, reads, strict=True):
        size = float(xp.linalg.trace(gram))
        own = read @ xp.matrix_transpose(read)
        variance = float(xp.sum(own * gram))
        if size > 0 and variance > 0:
            moment = moment + gram / size
            sensitivity = sensitivity + own * (size / variance)
    is_read = float(xp.max(xp.abs(sensitivity))) > 0
    sensitivity = damped(sensitivity, BLURRED) if is_read else _identity(sensitivity)
    values, vectors = eigenvectors(sensitivity)
    root, inverse = (
        (vectors * scale) @ xp.matrix_transpose(vectors)
        for scale in (xp.sqrt(values), 1 / xp.sqrt(values))
    )
    _, axes = eigenvectors(root @ (moment @ root))
    return root @ axes, xp.matrix_transpose(axes) @ inverse


def _identity(like: Array) -> Array:
    xp = compat.array_namespace(like)
    return xp.eye(like.shape[0], dtype=like.dtype, device=compat.device(like))
