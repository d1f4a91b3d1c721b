"""What a user says about preprocessing, and what it means for each input of a model.

The order is fixed: resize (shorter side), centre crop, colour order, then ``(x * scale - mean)
/ std``. Mean and std are in units *after* the scale, as torchvision states them: scale 1/255, mean
0.485 0.456 0.406, std 0.229 0.224 0.225.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.data.geometry import Geometry
from onnx_reap.data.recipe import Recipe
from onnx_reap.data.spec import InputSpec
from onnx_reap.errors import UsageError


@dataclass(frozen=True)
class Preprocess:
    """What is done to every sample, in the order of the module's docstring; None leaves it out.

    Raises
    ------
    UsageError
        If a std or scale is 0; that the other values are valid is known.
    """

    # Length of the shorter side, keeping the aspect ratio, or height and width, in pixels
    resize: int | tuple[int, int] | None = None
    # Side, or height and width, of the centre crop, in pixels. After a `resize` to one number it
    # defaults to the model's own height and width.
    crop: int | tuple[int, int] | None = None
    # One number, or one a channel, in units after `scale`
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    scale: float | None = None  # Factor on the stored values
    # "rgb" or "bgr": order in which the model wants colours; stored samples are RGB
    color: str = "rgb"

    def __post_init__(self) -> None:
        for flag, value in (("--std", self.std), ("--scale", self.scale)):
            if value is not None and not np.all(value):
                hint = f"{flag} 1, or what training used"
                raise UsageError(f"{flag} is zero", got=str(value), hint=hint)

    def recipes(self, inputs: Sequence[InputSpec]) -> dict[str, Recipe]:
        """Decide what is done to each input.

        Flags are about images. A model that takes none has `scale`, `mean` and `std` applied to all
        of its floating inputs; token ids and masks are never touched.

        Raises
        ------
        UsageError
            If no input can obey a flag, or if a flag contradicts the size or channels of one.
        """
        images = [spec for spec in inputs if spec.channel_axis is not None]
        scaled = [spec for spec in images or inputs if spec.is_float]
        sized = self.resize is not None or self.crop is not None
        if (sized or self.color != "rgb") and not images:
            raise UsageError(
                "--resize, --crop and --color need an image input",
                got=", ".join(map(str, inputs)),
                expected="4 axes, of which the second or last has size 1 or 3",
            )
        changes_values = any(value is not None for value in (self.scale, self.mean, self.std))
        if changes_values and not scaled:
            raise UsageError(
                "--scale, --mean and --std need a floating input", got=", ".join(map(str, inputs))
            )
        return {
            spec.name: Recipe(
                spec,
                Geometry.of(self.resize, self.crop, spec) if sized and spec in images else None,
                self.color == "bgr" and spec in images,
                self._affine(spec) if changes_values and spec in scaled else None,
            )
            for spec in inputs
        }

    def _affine(self, spec: InputSpec) -> tuple[np.ndarray, ...]:
        scale = 1 if self.scale is None else self.scale
        mean = 0 if self.mean is None else self.mean
        std = 1 if self.std is None else self.std
        return (
            np.asarray(scale, np.float64),
            _along_channels("--mean", mean, spec),
            _along_channels("--std", std, spec),
        )


NO_FLAGS = Preprocess()


def _along_channels(flag: str, value: float | tuple[float, ...], spec: InputSpec) -> np.ndarray:
    """Shape one number a channel so that it broadcasts against a batch of `spec`."""
    numbers = np.ravel(np.asarray(value, np.float64))
    if numbers.size == 1:
        result: np.ndarray = numbers[0]
        return result
    axes = [spec.channel_axis] if spec.channel_axis else [1, len(spec.shape) - 1]
    for axis in axes:
        if 0 < axis < len(spec.shape) and spec.shape[axis] in (numbers.size, None):
            return numbers.reshape([-1 if i == axis else 1 for i in range(len(spec.shape))])
    raise UsageError(
        f"{flag} doesn't fit the channels of the model's input",
        got=f"{numbers.size} numbers for {spec}",
        expected="1 number, or 1 a channel",
    )
