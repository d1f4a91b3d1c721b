"""Samples of which one input's values were replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_reap.data.calibration import Calibration


def with_values(
    given: Calibration,
    name: str,
    values: np.ndarray,
    others: Callable[[np.ndarray], np.ndarray],
    *,
    origin: str,
    notes: Sequence[str],
) -> Calibration:
    """Return the same samples, the first of them with other values for one input.

    Parameters
    ----------
    given : Calibration
        Not `alone`.
    values : array of shape (n, ...)
        For the first n samples, of the model's dtype.
    others : callable
        Takes the input's values of other samples and returns those to feed in their place.
    origin : str
        What a report calls the samples.
    notes : sequence of str
        In place of those of the given samples.
    """
    return Calibration(_Replaced(given, name, values, others, origin, tuple(notes)))


class _Replaced:
    """A source that reads from others, but for one input."""

    alone, refusal = False, None

    def __init__(
        self,
        given: Calibration,
        name: str,
        values: np.ndarray,
        others: Callable[[np.ndarray], np.ndarray],
        origin: str,
        notes: tuple[str, ...],
    ) -> None:
        self._given, self._name, self._values, self._others = given, name, values, others
        self.origin, self.notes = origin, notes
        self.shapes, self.by_feed = given.shapes, given.by_feed

    def __len__(self) -> int:
        return len(self._given)

    def feeds(self) -> None:
        """Return nothing: as whole feeds, samples would be others."""

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read the samples at these indices, shape (n,)."""
        feed = next(self._given.at(indices.tolist()).batches(len(indices)))
        values, own = self._others(feed[self._name]).copy(), indices < len(self._values)
        values[own] = self._values[indices[own]]
        return {**feed, self._name: values}
