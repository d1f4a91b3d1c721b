"""A folder of images, decoded in worker threads when a batch asks for them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnx_reap.data.arrays import RAW_PIXELS
from onnx_reap.data.geometry import Geometry, pillow
from onnx_reap.data.preprocess import Preprocess
from onnx_reap.data.spec import InputSpec
from onnx_reap.errors import ReapError

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


class FolderSource:
    """All images in a folder and its sub-folders, sorted by path; other files are skipped.

    Without ``--resize`` and ``--crop`` images are stretched to the model's height and width.

    Raises
    ------
    ReapError
        If there are no images, or the model can't be fed with images.
    """

    def __init__(self, folder: Path, inputs: Sequence[InputSpec], preprocess: Preprocess) -> None:
        if len(inputs) != 1 or inputs[0].channel_axis is None:
            raise ReapError(
                f"--data {folder} is a folder of images, which the model doesn't take",
                got=", ".join(map(str, inputs)),
                expected="one input of 4 axes, of which the second or last has size 1 or 3",
                hint="an .npz file with arrays by name of the input",
            )
        spec = inputs[0]
        self._spec = spec
        self._paths = _image_paths(folder)
        self._geometry = Geometry.of(preprocess.resize, preprocess.crop, spec)
        self._recipe = replace(preprocess, resize=None, crop=None).recipes(inputs)[spec.name]
        self._channels = spec.shape[inputs[0].channel_axis] or 1
        self.origin = folder.resolve().name
        self.shapes = {spec.name: spec.image_shape(self._channels, *self._geometry.size)}
        raw = spec.is_float and self._recipe.affine is None
        self.notes: tuple[str, ...] = (RAW_PIXELS,) if raw else ()

    alone, by_feed, refusal = False, False, None

    def feeds(self) -> None:
        """Return nothing: an image is a sample."""

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Decode and prepare the images at these indices, shape (n,)."""
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(self._image, (self._paths[index] for index in indices)))
        batch = np.moveaxis(np.stack(images), -1, self._spec.channel_axis or 1)
        return {self._spec.name: self._recipe.finish(batch)}

    def _image(self, path: Path) -> np.ndarray:
        return self._geometry(decode(path, self._channels), f"--data {path}")


def decode(path: Path, channels: int) -> np.ndarray:
    """Read an image as it is meant to be seen, turned by its EXIF orientation.

    Returns
    -------
    numpy.ndarray of uint8, shape (height, width, channels)
        Converted to grey for 1 channel, to RGB for 3.

    Raises
    ------
    ReapError
        If the file can't be read, or has more than 8 bits a channel, which Pillow would clip.
    """
    Image, ImageOps = pillow()
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{image.mode} pixels, more than 8 bits a channel")
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ReapError(
            f"--data {path} can't be read",
            got=str(error) or type(error).__name__,
            expected="a whole 8-bit image",
            hint="remove or convert it",
        ) from error
    return np.asarray(upright).reshape(upright.height, upright.width, channels)


def _image_paths(folder: Path) -> list[Path]:
    """List images; hidden ones, such as a Mac's ``._cat.jpg``, only look like some."""
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    images = [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not images:
        raise ReapError(
            f"--data {folder} has no images",
            got=_count(paths),
            expected=", ".join(sorted(SUFFIXES)),
        )
    return images


def _count(paths: Sequence[Path]) -> str:
    if len(paths) < 2:
        return "1 other file or folder" if paths else "an empty folder"
    return f"{len(paths):,} other files and folders"
