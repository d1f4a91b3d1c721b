"""Samples made up from statistics, for when there is no data."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.data.calibration import Calibration
from onnx_reap.data.leaves import dead_leaves
from onnx_reap.data.preprocess import NO_FLAGS, Preprocess
from onnx_reap.data.recipe import Recipe
from onnx_reap.data.spec import InputSpec, without_batch
from onnx_reap.errors import ReapError

# Measured layer by layer on real samples, a quarter of the channels removed at random and the rest
# refitted by least squares on either kind: geometric means of a ResNet-20 (CIFAR-10) and a
# MobileNetV2 (ImageNet).
NOTE = (
    "no --data: errors are those on synthetic samples, and say little about real ones; repairs "
    "fitted on synthetic samples leave 1.3 to 1.9 times the error, layer by layer, of repairs "
    "fitted on real ones (two image classifiers measured), and more where a model scales raw "
    "pixels itself; labels aren't needed"
)

# Mean and standard deviation of the pixels of photographs, of 0 to 255.
_PIXEL_MEAN, _PIXEL_STD = 115.0, 66.0


def synthetic_calibration(
    inputs: Sequence[InputSpec],
    preprocess: Preprocess = NO_FLAGS,
    *,
    samples: int,
    seed: int,
) -> Calibration:
    """Make up samples; number i is the same however many are asked for.

    Images have zero mean and unit variance, as normalised images have, unless `preprocess` scales
    values: then they are pixels of 0 to 255 that go through it. Images of uint8 inputs are such
    pixels, too. Other floating inputs are standard normal, other integers and booleans 0 or 1.
    Inputs without a batch axis (`without_batch`) are drawn once, whole.

    Parameters
    ----------
    preprocess : Preprocess
        `scale`, `mean`, `std` and `color` are obeyed; `resize` and `crop` give the size of images.

    Returns
    -------
    Calibration
        Its `notes` warn that samples are synthetic.
    """
    return Calibration(_Synthetic(inputs, preprocess, samples, seed))


class _Synthetic:
    """Samples drawn anew each time, each from a generator of its own."""

    origin = "synthetic"
    notes: tuple[str, ...] = (NOTE,)

    def __init__(
        self, inputs: Sequence[InputSpec], preprocess: Preprocess, samples: int, seed: int
    ) -> None:
        self._count, self._seed = samples, seed
        # Features are drawn as they are after normalisation, pixels before.
        self._recipes = {
            name: replace(recipe, affine=None) if recipe.spec.channel_axis is None else recipe
            for name, recipe in preprocess.recipes(inputs).items()
        }
        self._whole = {spec.name for spec in inputs if not spec.shape} | without_batch(inputs)
        self.shapes = {
            name: _sample_shape(recipe, whole=name in self._whole)
            for name, recipe in self._recipes.items()
        }

    def __len__(self) -> int:
        return self._count

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Draw the samples at these indices, shape (n,)."""
        seeds = [(self._seed, int(index)) for index in indices]
        return {
            name: recipe.finish(
                _sample(np.random.default_rng((self._seed, 0, position)), recipe, self.shapes[name])
                if name in self._whole
                else _batch(recipe, self.shapes[name], seeds, position)
            )
            for position, (name, recipe) in enumerate(self._recipes.items())
        }


def _sample_shape(recipe: Recipe, *, whole: bool) -> tuple[int, ...]:
    spec = recipe.spec
    sizes = spec.shape if whole else recipe.shape(spec.shape[1:])
    known = tuple(size for size in sizes if size is not None)
    if len(known) < len(sizes):
        raise ReapError(
            "synthetic samples need to know their shape, and the model's input is dynamic",
            got=str(spec),
            hint="--data, or --input-shapes to tell its sizes",
        )
    return known


def _batch(
    recipe: Recipe, shape: tuple[int, ...], seeds: Sequence[tuple[int, int]], position: int
) -> np.ndarray:
    draws = {  # a batch that is filled up repeats a sample
        seed: _sample(np.random.default_rng((*seed, position)), recipe, shape)
        for seed in dict.fromkeys(seeds)
    }
    return np.stack([draws[seed] for seed in seeds])


def _sample(rng: np.random.Generator, recipe: Recipe, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one sample, in the model's layout."""
    spec = recipe.spec
    pixels = spec.dtype == np.uint8 or recipe.affine is not None
    whole = len(shape) == len(spec.shape)
    if whole or spec.channel_axis is None or not (spec.is_float or pixels):
        return rng.standard_normal(shape) if spec.is_float else rng.integers(0, 2, shape)
    axis = spec.channel_axis - 1
    height, width = shape[:axis] + shape[axis + 1 :]
    image = dead_leaves(rng, height, width, shape[axis])
    if pixels:
        image = np.clip(_PIXEL_MEAN + _PIXEL_STD * image, 0, 255).astype(np.uint8)
    return np.moveaxis(image, -1, axis)
