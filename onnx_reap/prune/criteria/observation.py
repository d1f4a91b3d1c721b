"""What a criterion sees of a group: arrays, and nothing of graphs or models.

Everything is NumPy on the host, float64, and addresses units by their index in the group.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reading:
    """One linear map that reads the group's units: a layer, or a grouped convolution's map."""

    weight: Matrix  # (D, O): each output scaled by what the normalisation behind makes of it
    # (U, B) int: rows of `weight` that read each unit; -1 where a unit has fewer than B, or none
    columns: npt.NDArray[np.int64]
    gram: Matrix  # (D, D): centred second moment of the inputs, mean over the rows observed
    mean: Matrix  # (D,): of the inputs

    @property
    def reads(self) -> npt.NDArray[np.bool_]:
        """Whether each unit is read here: (U,) array."""
        result: npt.NDArray[np.bool_] = np.any(self.columns >= 0, axis=1)
        return result

    @property
    def squares(self) -> Matrix:
        """Mean square of each input, (D,) array."""
        return self.gram.diagonal() + self.mean**2

    def products(self, rows: Order) -> Matrix:
        """Mean product of each two of some inputs, not centred: (n, n) array."""
        return self.gram[np.ix_(rows, rows)] + np.outer(self.mean[rows], self.mean[rows])

    @property
    def outgoing(self) -> Matrix:
        """Each unit's weights in a row, zero where it has fewer than others: (U, B * O) array."""
        rows = np.where(self.columns[..., None] >= 0, self.weight[self.columns], 0.0)
        return rows.reshape(len(rows), -1)

    def of_units(self, values: Matrix) -> Matrix:
        """Look up values, shape (D,), of each unit's inputs; 0 where there are fewer: (U, B)."""
        return np.where(self.columns >= 0, values[self.columns], 0.0)

    def contributions(self) -> Matrix:
        """Inner products of what the units add to the outputs, mean over the rows: (U, U) array.

        Unit i adds z_i = X_i W_i, so E z_i . z_j = sum over its inputs of (W W^T) * (X^T X / n).
        """
        used = self.columns.ravel() >= 0
        rows = self.columns.ravel()[used]
        owner = np.repeat(np.arange(len(self.columns)), self.columns.shape[1])[used]
        products = self.products(rows)
        products *= self.weight[rows] @ self.weight[rows].T
        own, starts = np.unique(owner, return_index=True)
        sums = np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
        whole = np.zeros((len(self.columns),) * 2)
        whole[np.ix_(own, own)] = sums
        return whole

    def behaviours(self) -> tuple[Matrix, Matrix]:
        """Inner products of units as they arrive, mean over rows, summed over taps.

        Returns
        -------
        sums : (U, U) array
        counts : (U, U) array
            How many taps read both.
        """
        sums, counts = np.zeros((2, len(self.columns), len(self.columns)))
        for tap in self.columns.T:
            own = np.flatnonzero(tap >= 0)
            sums[np.ix_(own, own)] += self.products(tap[own])
            counts[np.ix_(own, own)] += 1
        return sums, counts


@dataclass(frozen=True)
class Observation:
    """What is known of a group."""

    name: str
    # (U, R): the weights that make each unit in a row, those of all its producers one behind the
    # other
    filters: Matrix
    readers: tuple[Reading, ...] = ()  # Empty where nothing was run, or nothing reads the units
    parts: npt.NDArray[np.int64] | None = None  # (U,) int: parts that shrink alike
    seed: int = 0
    # (N, U): largest value of each unit by sample; no samples unless the criterion asks for them
    features: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    # (N, K): what the model puts out for each of these, or 1 in the column of its class
    responses: Matrix = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def width(self) -> int:
        """Units in the group, U."""
        return len(self.filters)

    def contributions(self) -> Matrix:
        """Inner products of what units add to the outputs, summed over readers: (U, U) array."""
        return sum((r.contributions() for r in self.readers), np.zeros((self.width,) * 2))

    def behaviours(self) -> Matrix:
        """Mean product of each two units as they arrive together, 0 if they never do: (U, U)."""
        sums, counts = np.zeros((2, self.width, self.width))
        for reader in self.readers:
            more = reader.behaviours()
            sums, counts = sums + more[0], counts + more[1]
        return sums / np.maximum(counts, 1)

    def statistics(self) -> tuple[Matrix, Matrix]:
        """Mean and variance of each unit as it arrives, over all its inputs: (U,), (U,) arrays."""
        first, second, counts = np.zeros((3, self.width))
        for reader in self.readers:
            first = first + reader.of_units(reader.mean).sum(axis=1)
            second = second + reader.of_units(reader.squares).sum(axis=1)
            counts = counts + (reader.columns >= 0).sum(axis=1)
        mean, square = first / np.maximum(counts, 1), second / np.maximum(counts, 1)
        return mean, np.maximum(square - mean**2, 0.0)
