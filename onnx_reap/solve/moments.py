"""Second moments of a stream of rows, summed in float64, without ever summing uncentred squares.

A block is centred by its own mean; two sets of n_a and n_b rows merge by [1]_

    S = S_a + S_b + (n_a n_b / n) d d^T,     d = mean_b - mean_a,

so a large offset costs no more digits than float32 rows have already lost to it.

References
----------
.. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for
       Computing Sample Variances", COMPSTAT 1982.
"""

from __future__ import annotations

from collections.abc import Sequence

import array_api_compat as compat
import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.solve.backend import Array
from onnx_reap.solve.checks import check_finite

BLOCK_ROWS = 8192
"""Rows turned into float64 at a time."""

_ARRAYS = ("mean_x", "mean_y", "scatter_xx", "scatter_xy", "scatter_yy")


class Moments:
    """Moments of inputs x and targets y, accumulated block by block.

    Leading axes `...` hold independent problems with equally many rows, such as the groups of a
    grouped convolution. All arrays are float64, in the namespace and on the device of the blocks,
    and exist once a block has been seen.

    Attributes
    ----------
    count : float
        Rows seen; not whole where they are weighted.
    mean_x, mean_y : array, shape (..., D) and (..., O)
        Means over the rows. O is 0 for a stream without targets.
    scatter_xx, scatter_xy, scatter_yy : array, shape (..., D, D), (..., D, O) and (..., O)
        Centred sums of products over the rows; of y, only the squares.
    """

    mean_x: Array
    mean_y: Array
    scatter_xx: Array
    scatter_xy: Array
    scatter_yy: Array

    def __init__(self) -> None:
        self.count: float = 0

    def update(self, x: Array, y: Array | None = None) -> None:
        """Add a block of rows.

        Parameters
        ----------
        x : array, shape (..., n, D), float32 or float64
            Inputs, one row per sample. D and the leading axes stay the same from block to block.
        y : array, shape (..., n, O), float32 or float64, optional
            Targets of the same rows; in every block or in none.
        """
        y = x[..., :0] if y is None else y
        if x.shape[-2] == 0:
            return
        block = _of_block(x, y)
        if self.count == 0:  # nobody else holds its arrays, which may be large
            self.__dict__.update(block.__dict__)
        else:
            self._absorb(block)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows; neither of the two changes."""
        merged = Moments()
        for part in (self, other):
            if part.count:
                merged._absorb(part)
        return merged

    def retargeted(self, x: Array, y: Array) -> Moments:
        """Return the moments of the same inputs with other targets, which costs far less.

        Parameters
        ----------
        x : array, shape (..., n, D)
            All rows that were accumulated here.
        y : array, shape (..., n, O)
            Their new targets.
        """
        xp = compat.array_namespace(x, y)
        new = Moments()
        new.count, new.mean_x, new.scatter_xx = self.count, self.mean_x, self.scatter_xx
        new.mean_y, residual = centred(y)
        # Targets are centred, so inputs need not be; products stay in the rows' own precision.
        new.scatter_xy = xp.astype(
            xp.matrix_transpose(x) @ xp.astype(residual, x.dtype), xp.float64
        )
        new.scatter_yy = xp.sum(residual * residual, axis=-2, dtype=xp.float64)
        return new

    def weighted(self, weight: float) -> Moments:
        """Return the moments of the same rows, each of which counts `weight` times."""
        if weight == 1:
            return self
        new = Moments()
        new.__dict__.update(self.__dict__)
        new.count = self.count * weight
        for name in _ARRAYS[2:]:
            setattr(new, name, getattr(self, name) * weight)
        return new

    @property
    def gram(self) -> Array:
        """Centred second moment of x: array, shape (..., D, D), mean over the rows."""
        return self._seen().scatter_xx / self.count

    @property
    def cross(self) -> Array:
        """Centred second moment of x and y: array, shape (..., D, O), mean over the rows."""
        return self._seen().scatter_xy / self.count

    @property
    def var_y(self) -> Array:
        """Variance of y: array, shape (..., O), mean over the rows."""
        return self._seen().scatter_yy / self.count

    def _seen(self) -> Moments:
        if self.count == 0:
            raise ReapError("no rows were accumulated", hint="give calibration samples")
        return self

    def _absorb(self, other: Moments) -> None:
        """Merge in place."""
        if self.count == 0:
            xp = compat.array_namespace(other.mean_x)
            for name in _ARRAYS:
                setattr(self, name, xp.zeros_like(getattr(other, name)))
        n = self.count + other.count
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        shared = self.count * other.count / n
        self.scatter_xx += other.scatter_xx + shared * dx[..., :, None] * dx[..., None, :]
        self.scatter_xy += other.scatter_xy + shared * dx[..., :, None] * dy[..., None, :]
        self.scatter_yy += other.scatter_yy + shared * dy * dy
        self.mean_x = self.mean_x + dx * (other.count / n)
        self.mean_y = self.mean_y + dy * (other.count / n)
        self.count = n


def moments_of(x: Array, y: Array | None = None) -> Moments:
    """Return the moments of rows.

    Parameters
    ----------
    y : array, shape (..., n, O), optional
        Targets of the same rows.
    """
    y = x[..., :0] if y is None else y
    moments = Moments()
    rows = x.shape[-2]
    for at in range(0, rows, BLOCK_ROWS):
        part = slice(at, min(at + BLOCK_ROWS, rows))
        moments.update(x[..., part, :], y[..., part, :])
    return moments


def pooled(parts: Sequence[Moments]) -> Moments:
    """Add up moments about the means of each part: of problems that share all but an intercept.

    The means of the result are those of no rows.
    """
    first, *others = parts
    if not others:
        return first
    total = Moments()
    total.__dict__.update(first.__dict__)
    total.count = sum(part.count for part in parts)
    for name in _ARRAYS[2:]:
        setattr(total, name, sum((getattr(p, name) for p in others), start=getattr(first, name)))
    return total


@np.errstate(over="ignore", invalid="ignore")  # what comes of it is refused at the end
def _of_block(x: Array, y: Array) -> Moments:
    """Return the moments of one block; its products are taken in the precision of its rows."""
    xp = compat.array_namespace(x, y)
    block = Moments()
    block.count = x.shape[-2]
    block.mean_x, x = centred(x)
    block.mean_y, y = centred(y)
    x_t = xp.matrix_transpose(x)
    block.scatter_xx = xp.astype(x_t @ x, xp.float64)
    block.scatter_xy = xp.astype(x_t @ xp.astype(y, x.dtype), xp.float64)
    block.scatter_yy = xp.sum(y * y, axis=-2, dtype=xp.float64)
    check_finite("x", block.scatter_xx)
    check_finite("y", block.scatter_yy)
    return block


def centred(x: Array) -> tuple[Array, Array]:
    """Split rows into their mean and what is left.

    Returns
    -------
    rest : array, shape (..., n, D), dtype of `x`
    """
    xp = compat.array_namespace(x)
    # As a product, since reductions over a middle axis are slow where the last one is short.
    ones = xp.ones((1, x.shape[-2]), dtype=x.dtype, device=compat.device(x))
    mean = ones @ x / x.shape[-2]
    return xp.astype(mean[..., 0, :], xp.float64), x - mean
