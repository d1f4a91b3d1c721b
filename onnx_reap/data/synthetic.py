"""Samples made up from statistics, for when there is no data.

Images are dead leaves: discs of random place, colour and size that hide one another, with radii of
density proportional to r^-3, which gives the sharp edges, the flat regions and the 1/f spectrum of
natural images at every scale [1]_. Least squares repairs fitted on them carried over to real images
better than those fitted on 1/f noise, on ResNet-20 (CIFAR-10) as on MobileNetV2 (ImageNet).

References
----------
.. [1] A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural images", IJCV 41, 2001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_reap.data.calibration import Calibration
from onnx_reap.data.preprocess import NO_FLAGS, Preprocess
from onnx_reap.data.recipe import Recipe
from onnx_reap.data.spec import InputSpec
from onnx_reap.errors import ReapError

NOTE = (
    "no --data: repairs are fitted on synthetic samples, and accuracy will suffer; a few hundred "
    "unlabelled samples of what the model is used on repair most of the damage"
)

_LEAVES = 300
# Brightness, red against blue, green against both: natural colours vary mostly together.
_COLOUR = np.array([[0.95, 0.25, 0.12], [0.95, 0.0, -0.24], [0.95, -0.25, 0.12]])
# Mean and standard deviation of the pixels of photographs, of 0 to 255.
_PIXEL_MEAN, _PIXEL_STD = 115.0, 66.0


def synthetic_calibration(
    inputs: Sequence[InputSpec],
    preprocess: Preprocess = NO_FLAGS,
    *,
    samples: int,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Calibration:
    """Make up samples; number i is the same however many are asked for.

    Images have zero mean and unit variance, as normalised images have, unless `preprocess` scales
    values: then they are pixels of 0 to 255 that go through it. Images of uint8 inputs are such
    pixels, too. Other floating inputs are standard normal, other integers and booleans 0 or 1.

    Parameters
    ----------
    inputs : sequence of InputSpec
        All inputs of the model.
    preprocess : Preprocess
        `scale`, `mean`, `std` and `color` are obeyed; `resize` and `crop` give the size of images.
    samples : int
        Number of samples.
    seed : int
        Seed of everything random.
    shapes : mapping of str to tuple of int, optional
        By name of the input, one sample's shape without a batch axis, where the model's is dynamic.

    Returns
    -------
    Calibration
        Its `notes` warn that samples are synthetic.

    Raises
    ------
    ReapError
        If a dimension is dynamic and `shapes` doesn't tell its size.
    """
    return Calibration(_Synthetic(inputs, preprocess, samples, seed, shapes or {}))


class _Synthetic:
    """Samples drawn anew each time, each from a generator of its own."""

    origin = "synthetic"
    notes = (NOTE,)

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        preprocess: Preprocess,
        samples: int,
        seed: int,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._count, self._seed = samples, seed
        self._recipes = preprocess.recipes(inputs)
        self.shapes = {
            name: _sample_shape(recipe, shapes.get(name)) for name, recipe in self._recipes.items()
        }

    def __len__(self) -> int:
        return self._count

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Draw the samples at these indices, shape (n,)."""
        seeds = [(self._seed, int(index)) for index in indices]
        return {
            name: recipe.finish(_batch(recipe, self.shapes[name], seeds, position))
            for position, (name, recipe) in enumerate(self._recipes.items())
        }


def _sample_shape(recipe: Recipe, given: tuple[int, ...] | None) -> tuple[int, ...]:
    spec = recipe.spec
    sizes = recipe.shape(spec.shape[1:]) if given is None else given
    known = tuple(size for size in sizes if size is not None)
    if len(known) < len(sizes):
        raise ReapError(
            "synthetic samples need to know their shape, and the model's input is dynamic",
            got=str(spec),
            hint="--data, or --crop if it is an image",
        )
    if spec.shape and not spec.fits((1, *known)):
        raise ReapError(
            f"shapes doesn't fit the model's input {spec.name!r}",
            got=str(known),
            expected=str(spec),
        )
    return known


def _batch(
    recipe: Recipe, shape: tuple[int, ...], seeds: Sequence[tuple[int, int]], position: int
) -> np.ndarray:
    if not recipe.spec.shape:
        # A scalar has no batch axis: one value serves all samples.
        return _sample(np.random.default_rng((seeds[0][0], 0, position)), recipe, shape)
    draws = [_sample(np.random.default_rng((*seed, position)), recipe, shape) for seed in seeds]
    return np.stack(draws)


def _sample(rng: np.random.Generator, recipe: Recipe, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one sample, in the model's layout."""
    spec = recipe.spec
    stored_as_pixels = spec.dtype == np.uint8 or recipe.affine is not None
    if spec.channel_axis is not None and (spec.is_float or stored_as_pixels):
        image = _image(rng, np.moveaxis(np.empty(shape), spec.channel_axis - 1, -1).shape)
        if stored_as_pixels:
            image = np.clip(_PIXEL_MEAN + _PIXEL_STD * image, 0, 255).astype(np.uint8)
        return np.moveaxis(image, -1, spec.channel_axis - 1)
    return rng.standard_normal(shape) if spec.is_float else rng.integers(0, 2, shape)


def _image(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw an image, (height, width, channels), of zero mean and unit variance over many images."""
    image = _dead_leaves(rng, *shape)
    image = (image - image.mean()) / image.std()
    # Photographs differ in brightness (variance 1/4) and contrast (mean square 3/4).
    brightness = 0.5 * rng.standard_normal()
    contrast = np.sqrt(0.75) * np.exp(0.3 * rng.standard_normal() - 0.09)
    return brightness + contrast * image


def _dead_leaves(rng: np.random.Generator, height: int, width: int, channels: int) -> np.ndarray:
    side = min(height, width)
    smallest, largest = max(1.0, side / 60), side / 2
    # Inverse of the distribution function of a density proportional to r^-3.
    share = rng.random(_LEAVES)
    radii = 1 / np.sqrt(share / largest**2 + (1 - share) / smallest**2)
    rows, columns = rng.random((2, _LEAVES)) * [[height], [width]]
    colours = rng.standard_normal((_LEAVES + 1, channels))
    if channels == 3:
        colours = colours @ _COLOUR.T
    leaf = np.full((height, width), _LEAVES)
    for index, (row, column, radius) in enumerate(zip(rows, columns, radii, strict=True)):
        top, left = max(0, int(row - radius)), max(0, int(column - radius))
        y, x = np.ogrid[top : min(height, row + radius + 1), left : min(width, column + radius + 1)]
        box = leaf[top : top + len(y), left : left + x.size]
        box[(y - row) ** 2 + (x - column) ** 2 < radius**2] = index
    return colours[leaf]
