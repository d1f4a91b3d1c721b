"""What a tensor's channels hold: signals, which have numbers, and constants.

Channels with the same number hold the same signal, whatever the model is fed. Number 0 stands for
none: such a channel is constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SAME = 1e-6
"""Relative distance at which rows count as equal: a few roundings of float32 (6e-8 each)."""

LOST = 2.0**-24
"""Of the largest row's norm: what is smaller is lost when float32 adds the two."""


@dataclass(frozen=True)
class Content:
    """What the channels along one axis of a tensor hold."""

    signal: Ints  # (P,): 0 where the channel is constant
    constant: Floats  # (P,): what a channel holds without its signal
    size: Floats  # (P,): norm of the row of weights that makes it; infinite where unknown

    @property
    def fixed(self) -> Floats:
        """Constants of channels that are constant, 0 of the others."""
        return np.where(self.signal == 0, self.constant, 0.0)

    def at(self, positions: Ints) -> Content:
        """Pick channels."""
        return Content(self.signal[positions], self.constant[positions], self.size[positions])

    def settled(self) -> Content:
        """Drop signals that are lost in the rounding of the tensor's largest one."""
        sizes = np.where(self.signal == 0, 0.0, self.size)
        largest = sizes[np.isfinite(sizes)].max(initial=0.0)
        return Content(np.where(sizes <= LOST * largest, 0, self.signal), self.constant, self.size)


def joined(contents: Sequence[Content]) -> Content:
    """Put channels one behind the other."""
    parts = [(each.signal, each.constant, each.size) for each in contents]
    return Content(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def unknown(count: int, numbers: Iterator[int]) -> Content:
    """Return channels of which nothing is known."""
    signal = numbered(np.arange(count), numbers)
    return Content(signal, np.zeros(count), np.full(count, np.inf))


def numbered(kinds: Ints, numbers: Iterator[int]) -> Ints:
    """Give channels new signals, the same one where their kinds are equal."""
    found, which = np.unique(kinds, return_inverse=True)
    return np.array([next(numbers) for _ in found], np.int64)[which.ravel()]


def alike(kinds: Sequence[Ints], numbers: Sequence[np.ndarray]) -> Ints:
    """Tell, for every position, the first one that is equal to it.

    Parameters
    ----------
    kinds : sequence of (P,) int arrays
        Must be the same.
    numbers : sequence of (P,) or (P, ...) float arrays
        Must be the same to some roundings of each row.

    Returns
    -------
    (P,) int array
    """
    which = np.unique(np.stack(kinds, axis=1), axis=0, return_inverse=True)[1].ravel()
    first = np.arange(len(which))
    crowded = np.flatnonzero(np.bincount(which)[which] > 1)
    rows = [_as_rows(each)[crowded] for each in numbers]
    norms = [norms_of(each) for each in rows]
    # A projection tells which pairs are worth a comparison.
    shadow: Floats = sum((_projected(each) for each in rows), np.zeros(len(crowded)))
    reach = 4 * SAME * sum(norms, np.zeros(len(crowded)))

    def same(i: int, j: int) -> bool:
        pairs = zip(rows, norms, strict=True)
        return all(np.linalg.norm(row[i] - row[j]) <= SAME * norm[i] for row, norm in pairs)

    shadow[~np.isfinite(shadow)] = np.nan
    for i, position in enumerate(crowded.tolist()):
        earlier = crowded[:i]
        near = (which[earlier] == which[position]) & (first[earlier] == earlier)
        near &= np.abs(shadow[:i] - shadow[i]) <= reach[i]  # false where a number is not finite
        match = next((j for j in np.flatnonzero(near).tolist() if same(i, j)), i)
        first[position] = crowded[match]
    return first


def _as_rows(numbers: np.ndarray) -> np.ndarray:
    return numbers.reshape(len(numbers), int(np.prod(numbers.shape[1:])))


def _projected(rows: np.ndarray) -> Floats:
    direction = np.random.default_rng(0).standard_normal((rows.shape[1], 1))
    unit = direction / np.sqrt(max(rows.shape[1], 1))
    return np.asarray(rows @ unit.astype(rows.dtype), np.float64).ravel()


def norms_of(rows: np.ndarray) -> Floats:
    """Return the Euclidean norms of rows, (n,) float64."""
    result: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return result
