"""Resizing and cropping of images, as torchvision does them with Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_reap.data.spec import InputSpec
from onnx_reap.errors import ReapError, UsageError


def pillow() -> tuple[Any, Any]:
    """Import Pillow's ``Image`` and ``ImageOps``, which only images need.

    Raises
    ------
    ReapError
        If Pillow isn't installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ReapError(
            "reading and resizing images needs Pillow", hint="pip install pillow"
        ) from error
    return Image, ImageOps


@dataclass(frozen=True)
class Geometry:
    """Resize, then cut out the centre."""

    # Shorter side, or height and width, in pixels; None leaves the size alone
    resize: int | tuple[int, int] | None
    size: tuple[int, int]  # Height and width of the result, in pixels

    @classmethod
    def of(
        cls,
        resize: int | tuple[int, int] | None,
        crop: int | tuple[int, int] | None,
        spec: InputSpec,
    ) -> Geometry:
        """Work out ``--resize`` and ``--crop`` for one image input.

        Without either, images are stretched to the model's height and width; with a resize to one
        number alone, that size is cut out of the centre.

        Raises
        ------
        UsageError
            If the size that comes out isn't the model's, or isn't the same for all images.
        """
        if resize is not None and crop is None and np.size(resize) == 2:
            crop = resize
        height, width = spec.image_size if crop is None else _pair(crop)
        if height is None or width is None:
            raise UsageError(
                "images must come to one size, and the model's own is dynamic",
                got=str(spec),
                hint="--crop, or --resize with a height and a width",
            )
        wanted = spec.image_size
        if wanted[0] not in (None, height) or wanted[1] not in (None, width):
            raise UsageError(
                "--resize and --crop don't lead to the size of the model's input",
                got=f"{height} x {width}",
                expected=str(spec),
            )
        stretch = resize is None and crop is None
        return cls((height, width) if stretch else resize, (height, width))

    def __call__(self, image: np.ndarray, label: str) -> np.ndarray:
        """Resize and crop one image.

        Parameters
        ----------
        image : numpy.ndarray, shape (height, width, channels)
            uint8 stays uint8, anything else becomes float32 if it is resized.

        Returns
        -------
        numpy.ndarray, shape (*size, channels)

        Raises
        ------
        ReapError
            If the image is smaller than the crop.
        """
        height, width = image.shape[:2]
        if self.resize is not None:
            height, width = _target(self.resize, height, width)
            image = _resize(image, height, width)
        rows, columns = self.size
        if height < rows or width < columns:
            raise ReapError(
                f"{label} is smaller than what is cut out of its centre",
                got=f"{height} x {width}{' after --resize' if self.resize is not None else ''}",
                expected=f"{rows} x {columns} or more",
                hint=f"--resize {max(rows, columns)}",
            )
        top, left = round((height - rows) / 2), round((width - columns) / 2)
        return image[top : top + rows, left : left + columns]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = np.broadcast_to(size, 2).tolist()
    return height, width


def _target(resize: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    if np.size(resize) == 2:
        return _pair(resize)
    side, short = _pair(resize)[0], min(height, width)
    return side * height // short, side * width // short


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize channel by channel, since Pillow knows floats of one channel only."""
    Image, _ = pillow()
    image = image if image.dtype == np.uint8 else image.astype(np.float32)
    planes = [
        Image.fromarray(np.ascontiguousarray(plane)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
