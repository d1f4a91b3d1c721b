"""One input's preprocessing, ready to run on batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_reap.data.geometry import Geometry
from onnx_reap.data.spec import InputSpec, Size, describe
from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import is_float


@dataclass(frozen=True)
class Recipe:
    """How stored samples of one input become what the model is fed."""

    spec: InputSpec  # The input
    geometry: Geometry | None = None  # Resize and crop; None leaves sizes alone
    reverse: bool = False  # Whether the model wants colours in the order opposite to the stored one
    # float64 scale, mean and std of ``(x * scale - mean) / std``, each of which broadcasts against
    # a batch in the model's layout; None leaves values alone
    affine: tuple[np.ndarray, ...] | None = None

    @property
    def stored(self) -> InputSpec:
        """What stored samples must fit: the input, of any size where `geometry` sets the size."""
        if self.geometry is None:
            return self.spec
        kept = (0, self.spec.channel_axis)
        shape = tuple(size if axis in kept else None for axis, size in enumerate(self.spec.shape))
        return replace(self.spec, shape=shape)

    def shape(self, stored: tuple[Size, ...]) -> tuple[Size | int, ...]:
        """Shape of a sample as it is fed, given its stored shape; both without a batch axis."""
        if self.geometry is None:
            return stored
        return self.spec.image_shape(stored[(self.spec.channel_axis or 1) - 1], *self.geometry.size)

    def __call__(self, batch: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Prepare a batch of stored samples in the model's layout, (n, ...), of any real dtype.

        The result is contiguous and of the model's dtype. A refusal calls the samples by `labels`.
        """
        if self.geometry is not None:
            axis = self.spec.channel_axis or 1
            images = zip(np.moveaxis(batch, axis, -1), labels, strict=True)
            placed = np.stack([self.geometry(image, label) for image, label in images])
            batch = np.moveaxis(placed, -1, axis)
        return self.finish(batch)

    def finish(self, batch: np.ndarray) -> np.ndarray:
        """Do what `__call__` does after resize and crop."""
        if self.reverse:
            batch = np.flip(batch, self.spec.channel_axis)
        if self.affine is not None:
            precision = np.dtype(np.float64 if self.spec.dtype == np.float64 else np.float32)
            scale, mean, std = (number.astype(precision) for number in self.affine)
            batch = batch.astype(precision)
            batch *= scale
            batch -= mean
            batch /= std
        return _cast(batch, self.spec)


def _cast(batch: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Convert to the input's dtype; integers must survive, floats may be rounded."""
    # What float16 can't hold becomes infinite here and is refused where batches are checked.
    if spec.is_text:
        return _texts(batch, spec)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.asarray(batch, spec.dtype, order="C")
    if not is_float(spec.dtype) and not np.array_equal(cast, batch):
        raise ReapError(
            f"--data: values don't fit the model's input {spec.name!r}",
            got=f"{batch.min()} to {batch.max()} in {describe(batch.dtype, batch.shape)}",
            expected=f"{spec.dtype.name} values",
        )
    return cast


def _texts(batch: np.ndarray, spec: InputSpec) -> np.ndarray:
    texts = np.asarray(batch, object, order="C")
    other = next((each for each in texts.flat if not isinstance(each, str)), "")
    if not isinstance(other, str):
        raise ReapError(
            f"--data: values don't fit the model's input {spec.name!r}",
            got=f"{other!r} of type {type(other).__name__}",
            expected="text (str)",
        )
    return texts
