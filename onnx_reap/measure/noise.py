"""Whether what a model gives is more than rounding.

The mean of what a normalisation centred is 0 but for rounding, and the order of sums decides what
is left. A model tells so by itself: changing its input by a rounding changes such results by as
much as there is of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, run, session

STEP = 4 * float(np.finfo(np.float32).eps)
"""Relative change of the inputs."""

TRIES = 3
AMPLIFIED = 10
"""How much larger a difference may be than what changes of the inputs make."""


@dataclass(frozen=True)
class Difference:
    """By how much a tensor differs, and where it was compared."""

    error: float  # The largest of its entries, absolute
    part: Callable[[np.ndarray], np.ndarray]  # Takes the tensor; returns what was compared of it


@dataclass(frozen=True)
class Noise:
    """What roundings of the inputs change a model's tensors by."""

    model: LightModel
    providers: Sequence[str]
    names: Sequence[str]  # Tensors that may be asked for

    def explains(self, feed: Feed, differences: Mapping[str, Difference]) -> set[str]:
        """Return the tensors whose difference is no larger than what roundings make."""
        if not differences:
            return set()
        rng = np.random.default_rng(0)
        first = self._parts(feed, differences)
        largest = dict.fromkeys(differences, 0.0)  # NaN, which is no bound, where shapes change
        for _ in range(TRIES):
            for name, values in self._parts(_rounded(feed, rng), differences).items():
                largest[name] = np.maximum(largest[name], _change(first[name], values))
        return {n for n, each in differences.items() if each.error <= AMPLIFIED * largest[n]}

    def _parts(self, feed: Feed, differences: Mapping[str, Difference]) -> dict[str, np.ndarray]:
        values = run(self._session, list(differences), feed)
        return {name: each.part(values[name]) for name, each in differences.items()}

    @cached_property
    def _session(self) -> Any:
        return session(self.model, self.providers, outputs=self.names)


def _rounded(feed: Feed, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        name: (x * (1 + STEP * rng.uniform(-1, 1, x.shape))).astype(x.dtype)
        if is_float(x.dtype)
        else x
        for name, x in feed.items()
    }


def _change(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest change of entries that are finite; NaN if shapes differ."""
    if a.shape != b.shape:
        return np.nan
    changes = np.abs(b - a)
    return float(changes[np.isfinite(changes)].max(initial=0.0))
