"""The clipping activation behind a layer: what it forgives."""

import numpy as np
import numpy.typing as npt


class Clip:
    """The activation behind a layer, as far as it clips, and what stood before it."""

    def __init__(self, low: float, high: float, wanted: npt.NDArray[np.float32]) -> None:
        self._low, self._high, self.wanted = low, high, wanted
        self._behind = self._apply(wanted)
        self.variance = float(np.var(self._behind, axis=1, dtype=np.float64).sum())

    @property
    def bites(self) -> bool:
        """Whether there is a bound at all."""
        return bool(np.isfinite(self._low) or np.isfinite(self._high))

    def nearest(self, now: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the values nearest to `now` that come out of the activation as wanted."""
        target = self.wanted.copy()
        np.minimum(now, self._low, out=target, where=self.wanted <= self._low, casting="same_kind")
        np.maximum(
            now, self._high, out=target, where=self.wanted >= self._high, casting="same_kind"
        )
        return target

    def miss(self, now: npt.NDArray[np.float32]) -> float:
        """Mean squared error behind the activation."""
        miss = self._apply(now) - self._behind
        total = np.einsum("gno,gno->", miss, miss, dtype=np.float64)
        result: float = total / miss.shape[1]
        return result

    def _apply(self, u: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.clip(u, self._low, self._high) if self.bites else u
