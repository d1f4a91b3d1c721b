"""Random copies of samples: mirrored, shifted or zoomed images, shifted signals with some noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.data.calibration import Calibration
from onnx_reap.data.content import find_images, find_signals, is_discrete, with_size, with_time
from onnx_reap.onnxio.dtypes import is_float, is_text

LOOKED_AT = 32  # samples that show what inputs hold
SMALL = 64  # pixels of the shorter side up to which no image is zoomed
ZOOMED = 0.5  # of the larger images, the others are shifted: shifts change the least
SHIFT = 8  # a shift moves by at most the length divided by this
WINDOW = 0.6  # smallest part of each side that a zoom shows
NOISE = 0.03  # standard deviation, relative to the signal's own

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Augment:
    """Makes one random copy of each sample of a feed.

    All images of a sample are mirrored, and shifted or zoomed, alike, and all its signals are
    shifted alike, each in proportion to its own size. Copies stay between the least and the largest
    value of their sample, in each channel.
    """

    images: Mapping[str, tuple[int, int]]  # By input, the axes of height and width in a batch
    signals: Mapping[str, int]  # By input, the axis of time in a batch
    discrete: frozenset[str]  # Inputs of few values, such as masks: copies hold no other ones

    def augmented(self, feed: Feed, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a feed like this one that holds a copy of every sample.

        Arrays have the shapes and dtypes of those in `feed`; inputs that are neither images nor
        signals are passed on.
        """
        return {**feed, **self._images(feed, rng), **self._signals(feed, rng)}

    def _images(self, feed: Feed, rng: np.random.Generator) -> dict[str, np.ndarray]:
        planes = {n: np.moveaxis(feed[n], axes, (-2, -1)) for n, axes in self.images.items()}
        if not planes:
            return {}
        large = max(min(images.shape[-2:]) for images in planes.values()) > SMALL
        draws = rng.random((len(next(iter(planes.values()))), 6))
        copies = {name: np.empty(feed[name].shape, feed[name].dtype) for name in planes}
        for name, images in planes.items():
            size = images.shape[-2:]
            places = [_pixels(size, draw[1:], large and draw[0] < ZOOMED) for draw in draws]
            if name in self.discrete:
                places = [(np.rint(rows), np.rint(columns)) for rows, columns in places]
            made = np.moveaxis(copies[name], self.images[name], (-2, -1))
            for copy, image, (rows, columns) in zip(made, images, places, strict=True):
                copy[...] = _resampled(image, rows, columns)
        return copies

    def _signals(self, feed: Feed, rng: np.random.Generator) -> dict[str, np.ndarray]:
        batches = {name: feed[name] for name in self.signals}
        draws = rng.random(len(next(iter(batches.values()), ())))
        copies = {}
        for name, batch in batches.items():
            axis, last = self.signals[name], batch.shape[self.signals[name]] - 1
            places = [np.clip(_shifted(last + 1, draw), 0, last) for draw in draws]
            moved = [x.take(at, axis - 1) for x, at in zip(batch, places, strict=True)]
            noisy = name not in self.discrete and is_float(batch.dtype)
            copies[name] = _noisy(np.stack(moved), axis, rng) if noisy else np.stack(moved)
        return copies


def find_augment(samples: Calibration, kind: str, seed: int) -> Augment | None:
    """Find out which inputs are images or signals, and so how to augment samples.

    Parameters
    ----------
    samples : Calibration
        Some of them are read.
    kind : str
        ``image`` and ``signal`` look for these alone, and go by the shape where no input looks
        like one; ``auto`` looks for both; ``none`` for nothing.

    Returns
    -------
    Augment or None
        None if there is nothing to augment.
    """
    if kind == "none":
        return None
    stacks = _stacks(samples, seed)
    images = {} if kind == "signal" else find_images(stacks, insist=kind == "image")
    images |= with_size(stacks, images)
    others = {name: stack for name, stack in stacks.items() if name not in images}
    signals = {} if kind == "image" else find_signals(others, insist=kind == "signal")
    signals |= with_time(others, signals)
    discrete = frozenset(name for name in (*images, *signals) if is_discrete(stacks[name]))
    return Augment(images, signals, discrete) if images or signals else None


def _stacks(samples: Calibration, seed: int) -> dict[str, np.ndarray]:
    """Read some samples of each input that has a batch axis; from larger ones, a corner."""
    feeds = list(samples.take(LOOKED_AT, seed).batches(1))
    stacks = {}
    for name, first in feeds[0].items():
        arrays = [feed[name] for feed in feeds]
        batched = samples.alone or first.ndim > len(samples.shapes[name])
        if batched and first.ndim and not is_text(first.dtype) and {*map(len, arrays)} == {1}:
            least = np.min([array.shape for array in arrays], axis=0)
            stacks[name] = np.concatenate([array[tuple(map(slice, least))] for array in arrays])
    return stacks


def _pixels(size: Sequence[int], draw: np.ndarray, zooms: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of an image that a copy shows, which may lie between pixels.

    Parameters
    ----------
    size : sequence of int
        Height and width.
    draw : numpy.ndarray, shape (5,)
        Random numbers from 0 to 1: one that mirrors, and for each side the place of what is shown
        and how much that is.
    zooms : bool
        Show a part of each side, `WINDOW` or more of it, instead of shifting it by whole pixels.
    """
    mirror, places, parts = draw[0], draw[1:3], WINDOW + (1 - WINDOW) * draw[3:]
    shown = []
    for last, place, part in zip(np.subtract(size, 1), places, parts, strict=True):
        if zooms:
            shown.append(last * (place * (1 - part) + part * np.linspace(0, 1, last + 1)))
        else:  # reflected at the borders
            shown.append(last - np.abs(last - np.abs(_shifted(last + 1, place))))
    rows, columns = shown
    return rows, columns[::-1] if mirror < 0.5 else columns


def _shifted(length: int, place: float) -> np.ndarray:
    most = length // SHIFT
    return np.arange(length) + int(place * (2 * most + 1)) - most


def _resampled(sample: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return what an image (..., height, width) has at rows and columns, bilinearly."""
    if not ((rows % 1).any() or (columns % 1).any()):
        return sample[..., rows.astype(int)[:, None], columns.astype(int)]
    image = sample.astype(np.result_type(sample.dtype, np.float32), order="C")
    copy = _between(_between(image, -2, rows), -1, columns)
    if not is_float(sample.dtype):
        np.rint(copy, out=copy)
    sides = (-2, -1)
    within: np.ndarray = copy.clip(image.min(sides, keepdims=True), image.max(sides, keepdims=True))
    return within


def _between(array: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    """Interpolate linearly at real places along an axis."""
    below = np.floor(places).astype(int)
    weights = (places - below).astype(array.dtype)
    weights = weights[:, None] if axis == -2 else weights
    lower: np.ndarray = array.take(below, axis)
    upper = array.take(np.minimum(below + 1, array.shape[axis] - 1), axis)
    upper *= weights
    lower *= 1 - weights
    lower += upper
    return lower


def _noisy(batch: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    """Add noise in proportion to what each sample and channel varies by, within its range."""
    signal = batch.astype(np.result_type(batch.dtype, np.float32), copy=False)
    noise = rng.standard_normal(signal.shape, np.float32)
    noisy = signal + NOISE * signal.std(axis, keepdims=True) * noise
    least, most = signal.min(axis, keepdims=True), signal.max(axis, keepdims=True)
    return np.asarray(noisy.clip(least, most), batch.dtype)


def with_copies(samples: Calibration, augment: Augment, copies: int, seed: int) -> Calibration:
    """Put copies behind samples: all of them once, then once more, and so on.

    Parameters
    ----------
    copies : int
        Of every sample.
    seed : int
        Number i of the copies is the same whichever others are read with it.
    """
    return Calibration(_WithCopies(samples, augment, copies, seed))


class _WithCopies:
    """Samples, and copies of each that are drawn anew whenever they are read."""

    refusal = None
    notes: tuple[str, ...] = ()

    def __init__(self, samples: Calibration, augment: Augment, copies: int, seed: int) -> None:
        self._samples, self._augment = samples, augment
        self._copies, self._seed = copies, seed
        self.origin, self.shapes = samples.origin, samples.shapes
        self.alone, self.by_feed = samples.alone, samples.by_feed

    def __len__(self) -> int:
        return len(self._samples) * (1 + self._copies)

    def feeds(self) -> None:
        """Return nothing: samples are what they are."""

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read samples, and make copies of those whose indices are past the last one."""
        own = len(self._samples)
        feed = next(self._samples.at((indices % own).tolist()).batches(len(indices)))
        copied = [place for place, index in enumerate(indices.tolist()) if index >= own]
        result = {name: array.copy() if copied else array for name, array in feed.items()}
        for place in copied:
            rng = np.random.default_rng((self._seed, int(indices[place])))
            sample = {name: feed[name][place : place + 1] for name in self._augmented}
            for name, array in self._augment.augmented(sample, rng).items():
                result[name][place] = array[0]
        return result

    @property
    def _augmented(self) -> list[str]:
        return [*self._augment.images, *self._augment.signals]
