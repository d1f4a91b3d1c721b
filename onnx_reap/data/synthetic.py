"""Samples made up from statistics, for when there is no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase

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

LETTERS = tuple(ascii_lowercase)  # texts for a model that doesn't tell which it knows

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
    pixels, too. Other floating inputs are standard normal, other integers and booleans 0 or 1. What
    a model looks up (`InputSpec.lookup`) is drawn uniformly. Inputs without a batch axis
    (`without_batch`) are drawn once, whole; as whole feeds all are drawn for every sample, with the
    sizes that the user named.

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
    refusal = None

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        preprocess: Preprocess,
        samples: int,
        seed: int,
        *,
        alone: bool = False,
    ) -> None:
        self._inputs, self._preprocess = inputs, preprocess
        self._count, self._seed, self.alone = samples, seed, alone
        # Features are drawn as they are after normalisation, pixels before.
        self._recipes = {
            name: replace(recipe, affine=None) if recipe.spec.channel_axis is None else recipe
            for name, recipe in preprocess.recipes(inputs).items()
        }
        own = without_batch(inputs)
        self._whole = {spec.name for spec in inputs if alone or not spec.shape or spec.name in own}
        self.by_feed = any((spec.named or (1,))[0] > 1 for spec in inputs)
        shapes = {
            name: _whole_shape(recipe.spec)
            if alone
            else recipe.spec.shape
            if name in self._whole
            else recipe.shape(recipe.spec.shape[1:])
            for name, recipe in self._recipes.items()
        }
        self.shapes = _known(shapes, inputs)
        drawn = ", ".join(f"{spec.name} ({_range(spec)})" for spec in inputs if spec.lookup)
        self.notes: tuple[str, ...] = (f"{NOTE}; drawn uniformly: {drawn}" if drawn else NOTE,)

    def __len__(self) -> int:
        return self._count

    def feeds(self) -> _Synthetic:
        """Return samples that have no batch axis, of the sizes that the user named."""
        return _Synthetic(self._inputs, self._preprocess, self._count, self._seed, alone=True)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Draw the samples at these indices, shape (n,)."""
        seeds = [(self._seed, int(index)) for index in indices]
        once = seeds[0] if self.alone else (self._seed, 0)
        return {
            name: recipe.finish(
                _sample(np.random.default_rng((*once, position)), recipe, self.shapes[name])
                if name in self._whole
                else _batch(recipe, self.shapes[name], seeds, position)
            )
            for position, (name, recipe) in enumerate(self._recipes.items())
        }


def _whole_shape(spec: InputSpec) -> tuple[int | None, ...]:
    """Return the shape that the user named, or the declared one with a batch of 1 where it is open.

    Sizes that preprocessing sets don't count: these are no images.
    """
    if spec.named is not None or not spec.shape:
        return spec.named or ()
    return spec.shape[0] or 1, *spec.shape[1:]


def _known(
    shapes: Mapping[str, tuple[int | None, ...]], inputs: Sequence[InputSpec]
) -> dict[str, tuple[int, ...]]:
    """Return shapes whose sizes are all known.

    Raises
    ------
    ReapError
        Which names all inputs that are open.
    """
    open_ = [spec for spec in inputs if None in shapes[spec.name]]
    if open_:
        flags = (f"--input-shapes {spec.name}:{_example(spec)}" for spec in open_)
        raise ReapError(
            "synthetic samples need to know their shape, and the model's input is dynamic"
            if len(open_) == 1
            else "synthetic samples need to know their shapes, and the model's inputs are dynamic",
            got=", ".join(map(str, open_)),
            hint=("--data", f"{' '.join(flags)} with sizes for ?"),
        )
    return {
        name: tuple(size for size in sizes if size is not None) for name, sizes in shapes.items()
    }


def _example(spec: InputSpec) -> str:
    return ",".join(
        "?" if size is None else str(size) for size in (spec.shape[0] or 1, *spec.shape[1:])
    )


def _range(spec: InputSpec) -> str:
    """Say what a lookup takes, such as ``0 to 59``."""
    assert spec.lookup is not None
    first, *_, last = spec.lookup
    return f"{first} to {last - 1}" if isinstance(last, int) else f"{len(spec.lookup)} texts"


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
    if spec.value is not None:
        return np.full(shape, spec.value, object if spec.is_text else None)
    if spec.lookup is not None or spec.is_text:
        return _looked_up(rng, spec.lookup or LETTERS, shape)
    if whole or spec.channel_axis is None or not (spec.is_float or pixels):
        return rng.standard_normal(shape) if spec.is_float else rng.integers(0, 2, shape)
    axis = spec.channel_axis - 1
    height, width = shape[:axis] + shape[axis + 1 :]
    image = dead_leaves(rng, height, width, shape[axis])
    if pixels:
        image = as_pixels(image).astype(np.uint8)
    return np.moveaxis(image, -1, axis)


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Scale images of zero mean and unit variance as a file stores them, from 0 to 255."""
    result: np.ndarray = np.clip(_PIXEL_MEAN + _PIXEL_STD * images, 0, 255)
    return result


def _looked_up(
    rng: np.random.Generator, lookup: tuple[int, int] | tuple[str, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Draw uniformly of what a model looks up; ids as integers, whatever type they are fed in."""
    if isinstance(lookup[0], int):
        return np.asarray(rng.integers(*lookup, shape))
    return np.array(lookup, object)[rng.integers(0, len(lookup), shape)]
