"""Cost of a model as a function of its groups' widths.

Every linear layer costs `factor * inputs * outputs`, and both extents are sums of what stays in any
case and of channels of groups; so the total is a sum of products of affine functions of the widths.
Layers that go wholly, with a group of width 0, cost nothing, and so do those that stand in for a
layer which stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onnx_reap.solve.gates import ALWAYS, Gates, Paths

Widths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Extent:
    """Length of an axis: a fixed part, and channels per unit of each group."""

    fixed: float
    per_unit: Mapping[int, float]


@dataclass(frozen=True)
class Term:
    """A cost of `factor` times the lengths of at most two axes, while one of the paths is open."""

    factor: float
    extents: tuple[Extent, ...]
    paths: Paths = ALWAYS


class Costs(Protocol):
    """Anything that tells what a model costs at given widths, in whole units."""

    def at(self, widths: Widths) -> int:
        """Total cost when group g keeps `widths[g]` units; widths has shape (groups,)."""
        ...

    def alone(self, widths: Widths, options: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Total cost if one group alone changed, for each of its (groups, k) options."""
        ...

    def per_unit(self, widths: Widths) -> npt.NDArray[np.float64]:
        """Return the slope of the cost by each width, shape (groups,)."""
        ...


class Cost:
    """A cost (MACs, parameters) for any widths.

    Parameters
    ----------
    terms : sequence of Term
    groups : int
        Number of groups, the length of `widths` below.
    closed_at : (groups,) int array, optional
        Width at which a group closes the paths of terms, 0 by default.
    """

    def __init__(self, terms: Sequence[Term], groups: int, closed_at: Widths | None = None) -> None:
        self._terms, self._groups = tuple(terms), groups
        self._factor = np.array([term.factor for term in terms])
        self._fixed = np.ones((len(terms), 2))
        self._slope = np.zeros((len(terms), 2, groups))
        for i, term in enumerate(terms):
            for j, extent in enumerate(term.extents):
                self._fixed[i, j] = extent.fixed
                for g, each in extent.per_unit.items():
                    self._slope[i, j, g] = each
        gated = [i for i, term in enumerate(terms) if term.paths != ALWAYS]
        self._gated = np.array(gated, np.int64)
        self._closed_at = np.zeros(groups, np.int64) if closed_at is None else closed_at
        self._gates = Gates([terms[i].paths for i in gated], groups, self._closed_at)

    def __add__(self, other: Cost) -> Cost:
        """Return the sum of two costs of the same groups; no group has a `closed_at` in both."""
        closed_at = np.maximum(self._closed_at, other._closed_at)
        return Cost((*self._terms, *other._terms), self._groups, closed_at)

    def __mul__(self, factor: float) -> Cost:
        """Return the cost in another unit, `factor` of which make one of this."""
        scaled = [replace(term, factor=factor * term.factor) for term in self._terms]
        return Cost(scaled, self._groups, self._closed_at)

    def at(self, widths: Widths) -> int:
        """Total cost when group g keeps `widths[g]` units; widths has shape (groups,)."""
        lengths = self._lengths(widths)
        return round(float((self._present(widths) * lengths[:, 0] * lengths[:, 1]).sum()))

    def alone(self, widths: Widths, options: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the total cost if one group alone changed, for each of its options.

        Parameters
        ----------
        options : (groups, k) int array
            Widths that each group may change to while all others keep theirs.

        Returns
        -------
        (groups, k) float array
            Exact, not linearised: a group that is both axes of a layer counts squared.
        """
        change = options - np.asarray(widths)[:, None]
        lengths, always = self._lengths(widths), self._factor.copy()
        always[self._gated] = 0
        total = _polynomial(always[:, None], lengths, self._slope, change)
        if self._gated.size:
            some = lengths[self._gated], self._slope[self._gated], change
            factor = self._factor[self._gated, None]
            if_open, if_closed = (
                _polynomial(factor * self._gates.present_if(widths, closed=closed), *some)
                for closed in (False, True)
            )
            total = total + np.where(options == self._closed_at[:, None], if_closed, if_open)
        return total

    def per_unit(self, widths: Widths) -> npt.NDArray[np.float64]:
        """Return the derivative of the cost by each width, shape (groups,).

        Of a group that has closed its paths, what it would be if it had not.
        """
        factor = np.repeat(self._factor[:, None], self._groups, axis=1)
        factor[self._gated] *= self._gates.present_if(widths, closed=False)
        return _slopes(factor, self._lengths(widths), self._slope)

    def _present(self, widths: Widths) -> npt.NDArray[np.float64]:
        """Return the factors, 0 for what has vanished, (terms,)."""
        factor = self._factor.copy()
        factor[self._gated] *= self._gates.present(widths)
        return factor

    def _lengths(self, widths: Widths) -> npt.NDArray[np.float64]:
        return np.asarray(self._fixed + self._slope @ np.asarray(widths, float))


def _polynomial(
    factor: npt.NDArray[np.float64],
    lengths: npt.NDArray[np.float64],
    slope: npt.NDArray[np.float64],
    change: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Sum terms where one width changes, (groups, k); `factor` is (terms, groups) or (terms, 1)."""
    total = (factor * lengths.prod(axis=1)[:, None]).sum(axis=0)
    square = (factor * slope[:, 0] * slope[:, 1]).sum(axis=0)
    return np.asarray(
        total[:, None]
        + change * (_slopes(factor, lengths, slope)[:, None] + change * square[:, None])
    )


def _slopes(
    factor: npt.NDArray[np.float64],
    lengths: npt.NDArray[np.float64],
    slope: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Product rule: each axis' slope times the other axis' length; (groups,)."""
    each = slope[:, 0] * lengths[:, 1:] + slope[:, 1] * lengths[:, :1]
    return np.asarray((factor * each).sum(axis=0))
