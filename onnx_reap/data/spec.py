"""What the model wants to be fed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from onnx_reap.onnxio.dtypes import is_float, is_text

# A dimension, which may or may not be None where it is dynamic.
Size = TypeVar("Size", bound="int | None")

_COLOURS = (1, 3)


@dataclass(frozen=True)
class InputSpec:
    """Name, dtype and shape of one model input."""

    name: str  # Name of the input in the model
    dtype: np.dtype  # What the model computes on; ``ml_dtypes.bfloat16`` is fine
    # None marks a dynamic dimension. ``shape[0]`` is the batch axis, whatever its size; ``()`` is a
    # scalar, which has none.
    shape: tuple[int | None, ...]
    # Sizes that the user named, that of the first axis included; None where there are none
    named: tuple[int, ...] | None = None
    # What the model looks up: integers from the first up to the second, or texts; None if anything
    lookup: tuple[int, int] | tuple[str, ...] | None = None
    # What is fed where there are no data, if that is known
    value: int | float | str | None = None

    def __str__(self) -> str:
        return f"{self.name} {describe(self.dtype, self.shape)}"

    @property
    def channel_axis(self) -> int | None:
        """Axis of the colours, 1 or 3, if this is an image: four axes, one of size 1 or 3."""
        if len(self.shape) != 4:
            return None
        return next((axis for axis in (1, 3) if self.shape[axis] in _COLOURS), None)

    @property
    def is_float(self) -> bool:
        """Whether values may be scaled: pixels and features, as opposed to token ids and masks."""
        return is_float(self.dtype)

    @property
    def is_text(self) -> bool:
        """Whether values are strings."""
        return is_text(self.dtype)

    @property
    def image_size(self) -> tuple[int | None, int | None]:
        """Height and width of an image input, in pixels; None where dynamic."""
        first = 1 if self.channel_axis == 3 else 2
        return self.shape[first], self.shape[first + 1]

    def image_shape(self, channels: Size, height: int, width: int) -> tuple[Size | int, ...]:
        """Shape of one sample of an image input, without a batch axis."""
        if self.channel_axis == 3:
            return height, width, channels
        return channels, height, width

    def holds(self, value: object) -> bool:
        """Whether a number, flag or text can be an entry of this input."""
        if self.is_text or not isinstance(value, (int, float)):
            return self.is_text and isinstance(value, str)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return bool(np.array(value, self.dtype) == value)
        except OverflowError:
            return False

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a batch of this shape, of any size, can be fed."""
        if not self.shape or len(shape) != len(self.shape):
            return False
        return all(want in (None, got) for want, got in zip(self.shape[1:], shape[1:], strict=True))


def without_batch(inputs: Sequence[InputSpec]) -> set[str]:
    """Name the inputs whose first axis is no batch, such as a state (layers, batch, channels).

    The batch is open or 1 if the first axis of any input is. Otherwise it has the size that the
    first input gives it.
    """
    sizes = [spec.shape[0] for spec in inputs if spec.shape]
    batch = (None, 1) if None in sizes or 1 in sizes else (None, *sizes[:1])
    return {spec.name for spec in inputs if spec.shape and spec.shape[0] not in batch}


def describe(dtype: np.dtype, shape: tuple[int | None, ...]) -> str:
    """Text such as ``float32 (N, 3, ?, ?)`` for a refusal."""
    sizes = ["N" if not axis and size is None else size for axis, size in enumerate(shape)]
    kind = "string" if is_text(dtype) else dtype.name
    return f"{kind} ({', '.join('?' if size is None else str(size) for size in sizes)})"
