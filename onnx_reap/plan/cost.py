"""Cost of a model as a function of its groups' widths.

Every linear layer costs `factor * inputs * outputs`, and both extents are sums of what stays in any
case and of channels of groups; so the total is a sum of products of affine functions of the widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Widths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Extent:
    """Length of an axis: a fixed part, and channels per unit of each group."""

    fixed: float
    per_unit: Mapping[int, float]


@dataclass(frozen=True)
class Term:
    """A cost of `factor` times the lengths of at most two axes."""

    factor: float
    extents: tuple[Extent, ...]


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
    """

    def __init__(self, terms: Sequence[Term], groups: int) -> None:
        self._factor = np.array([term.factor for term in terms])
        self._fixed = np.ones((len(terms), 2))
        self._slope = np.zeros((len(terms), 2, groups))
        for i, term in enumerate(terms):
            for j, extent in enumerate(term.extents):
                self._fixed[i, j] = extent.fixed
                for g, each in extent.per_unit.items():
                    self._slope[i, j, g] = each

    def __add__(self, other: Cost) -> Cost:
        """Return the sum of two costs of the same groups."""
        total = Cost((), self._slope.shape[2])
        total._factor = np.concatenate([self._factor, other._factor])
        total._fixed = np.concatenate([self._fixed, other._fixed])
        total._slope = np.concatenate([self._slope, other._slope])
        return total

    def __mul__(self, factor: float) -> Cost:
        """Return the cost in another unit, `factor` of which make one of this."""
        scaled = Cost((), self._slope.shape[2])
        scaled._factor, scaled._fixed, scaled._slope = (
            factor * self._factor,
            self._fixed,
            self._slope,
        )
        return scaled

    def at(self, widths: Widths) -> int:
        """Total cost when group g keeps `widths[g]` units; widths has shape (groups,)."""
        return round(self._total(widths))

    def alone(self, widths: Widths, options: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the total cost if one group alone changed, for each of its options.

        Parameters
        ----------
        widths : (groups,) int array
        options : (groups, k) int array
            Widths that each group may change to while all others keep theirs.

        Returns
        -------
        (groups, k) float array
            Exact, not linearised: a group that is both axes of a layer counts squared.
        """
        change = options - np.asarray(widths)[:, None]
        square = np.einsum("t,tg,tg->g", self._factor, self._slope[:, 0], self._slope[:, 1])
        slope = self.per_unit(widths)[:, None] + change * square[:, None]
        return np.asarray(self._total(widths) + change * slope)

    def per_unit(self, widths: Widths) -> npt.NDArray[np.float64]:
        """Return the derivative of the cost by each width, shape (groups,)."""
        lengths = self._lengths(widths) * self._factor[:, None]
        # Product rule: each axis' slope times the other axis' length.
        first = np.einsum("t,tg->g", lengths[:, 1], self._slope[:, 0])
        second = np.einsum("t,tg->g", lengths[:, 0], self._slope[:, 1])
        return np.asarray(first + second)

    def _total(self, widths: Widths) -> float:
        lengths = self._lengths(widths)
        return float((self._factor * lengths[:, 0] * lengths[:, 1]).sum())

    def _lengths(self, widths: Widths) -> npt.NDArray[np.float64]:
        return np.asarray(self._fixed + self._slope @ np.asarray(widths, float))
