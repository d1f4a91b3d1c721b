"""What a tensor's channels hold: multiples of unknown signals, and constants.

A channel is written as `scale * signal + offset`. Signals have numbers; channels with the same
number hold the same signal, whatever the model is fed. Signal 0 stands for none: such a channel is
constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.prune.lossless.rows import SAME, ZERO

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """Channels along one axis of a tensor."""

    signal: Ints  # (P,) int64: 0 where the channel is constant
    # (P,) float64: scale is 0 where there is no signal
    scale: Floats
    offset: Floats

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which channels are constant."""
        result: npt.NDArray[np.bool_] = self.signal == 0
        return result

    def at(self, positions: Ints) -> Form:
        """Pick channels."""
        return Form(self.signal[positions], self.scale[positions], self.offset[positions])

    def mapped(self, scale: Floats, shift: Floats) -> Form:
        """Return the channels behind an affine map of each."""
        return Form.of(self.signal, self.scale * scale, self.offset * scale + shift)

    def times(self, other: Form) -> Form:
        """Multiply by channels; of each two, one at least must be constant."""
        mine = self.constant
        factor = np.where(mine, self.offset, other.offset)
        signal = np.where(mine, other.signal, self.signal)
        scale = np.where(mine, other.scale, self.scale) * factor
        return Form.of(signal, scale, np.where(mine, other.offset, self.offset) * factor)

    @staticmethod
    def joined(forms: Sequence[Form]) -> Form:
        """Put channels one behind the other."""
        parts = [(form.signal, form.scale, form.offset) for form in forms]
        signal, scale, offset = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Form(signal, scale, offset)

    @staticmethod
    def of(signal: Ints, scale: Floats, offset: Floats) -> Form:
        """Make a form; what is scaled by 0 holds no signal."""
        none = (signal == 0) | (scale == 0)
        return Form(np.where(none, 0, signal), np.where(none, 0.0, scale), offset)


class Signals:
    """All signals of a model.

    Attributes
    ----------
    norms : list of float
        By signal, the norm of the row of weights that makes it; infinite where that is unknown.
    """

    def __init__(self) -> None:
        self.norms: list[float] = [0.0]
        self._moved: dict[tuple[int, int], int] = {}

    def new(self, norm: float = np.inf) -> int:
        """Return a new signal."""
        self.norms.append(norm)
        return len(self.norms) - 1

    def moved(self, signal: int, how: int) -> int:
        """Return a signal moved in some way; the same one each time."""
        if signal and (signal, how) not in self._moved:
            self._moved[signal, how] = self.new(self.norms[signal])
        return self._moved[signal, how] if signal else 0

    def unknown(self, count: int) -> Form:
        """Return channels of which nothing is known."""
        new = np.array([self.new() for _ in range(count)], np.int64)
        return Form(new, np.ones(count), np.zeros(count))

    def settled(self, form: Form) -> Form:
        """Drop signals that are lost in the rounding of the tensor's largest one."""
        sizes = np.abs(form.scale) * np.array(self.norms)[form.signal]
        largest = sizes[np.isfinite(sizes)].max(initial=0.0)
        return Form.of(form.signal, np.where(sizes <= ZERO * largest, 0, form.scale), form.offset)


def alike(kinds: Sequence[Ints], numbers: Sequence[np.ndarray]) -> Ints:
    """Tell, for every position, the first one that is equal to it.

    Parameters
    ----------
    kinds : sequence of (P,) int arrays
        Must be the same.
    numbers : sequence of (P,) or (P, m) float arrays
        Must be the same to some roundings, entry by entry.

    Returns
    -------
    (P,) int array
    """
    _, which = np.unique(np.stack(kinds, axis=1), axis=0, return_inverse=True)
    first = np.arange(len(kinds[0]))
    which = which.ravel()
    order = np.argsort(which, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        if len(members) < 2:
            continue
        rows = np.concatenate([n[members].reshape(len(members), -1) for n in numbers], axis=1)
        for i in range(1, len(members)):
            same = np.isclose(rows[:i], rows[i], rtol=SAME, atol=0).all(axis=1)
            if same.any():
                first[members[i]] = first[members[int(np.argmax(same))]]
    return first
