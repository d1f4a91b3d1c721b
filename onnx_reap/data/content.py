"""What inputs hold, told from samples: images, signals, or values without an order."""

from collections.abc import Mapping

import numpy as np

from onnx_reap.data.spec import InputSpec
from onnx_reap.onnxio.dtypes import is_float

SHORTEST_SIDE = 8  # pixels of an image
SHORTEST_TIME = 32  # entries of a signal
FEWEST = 8  # samples from which something can be told
ALIKE = 0.3  # correlation from which neighbours are alike
LEAST_ALIKE = 0.1  # share of the neighbours that may be less alike
DRIFT = 0.25  # share of a signal's variance that may come from its mean over samples
FLAGS = 2  # distinct values of a mask
FEW_VALUES = 32  # distinct values up to which an input is discrete

Stacks = Mapping[str, np.ndarray]  # by input, some samples along the first axis


def find_images(stacks: Stacks, *, insist: bool) -> dict[str, tuple[int, int]]:
    """Return the axes of height and width of inputs that are images.

    Neighbours are alike along both. To `insist` is to go by shapes alone if no input is like that,
    and to take arrays without a channel axis for images, too, which may be spectra over time.
    """
    likely = {name: _sides(name, stack) for name, stack in stacks.items()}
    sides = {n: pairs for n, pairs in likely.items() if pairs and (insist or stacks[n].ndim == 4)}
    found = {
        name: pair
        for name, pairs in sides.items()
        for pair in reversed(pairs)  # the first one that fits comes last
        if all(neighbours_alike(stacks[name], axis) for axis in pair)
    }
    return found or ({name: pair for name, (pair, *_) in sides.items()} if insist else {})


def find_signals(stacks: Stacks, *, insist: bool) -> dict[str, int]:
    """Return the axis of time of floating inputs that are signals.

    It is the longest one along which neighbours are alike and no place is special. To `insist` is
    to take the longest one if no input has such an axis.
    """
    long = {name: axes for name, stack in stacks.items() if (axes := _long_axes(stack))}
    found: dict[str, int] = {}
    for name, axes in long.items():
        fits = [a for a in axes if neighbours_alike(stacks[name], a) and _steady(stacks[name], a)]
        found |= {name: fits[0]} if fits else {}
    return found or ({name: axis for name, (axis, *_) in long.items()} if insist else {})


def with_size(stacks: Stacks, images: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return the axes of height and width of other inputs that have those of an image: masks."""
    sizes = {tuple(stacks[name].shape[axis] for axis in pair) for name, pair in images.items()}
    return {
        name: (axis, axis + 1)
        for name, stack in stacks.items()
        for axis in range(1, stack.ndim - 1)
        if name not in images and stack.shape[axis : axis + 2] in sizes
    }


def with_time(stacks: Stacks, signals: Mapping[str, int]) -> dict[str, int]:
    """Return the axis of time of other inputs that are as long as a signal, ids aside."""
    lengths = {stacks[name].shape[axis] for name, axis in signals.items()}
    return {
        name: axis
        for name, stack in stacks.items()
        for axis in range(1, stack.ndim)
        if name not in signals
        and stack.shape[axis] in lengths
        and (is_float(stack.dtype) or _values(stack) <= FLAGS)
    }


def is_discrete(stack: np.ndarray) -> bool:
    """Whether samples hold so few values that values between them mean nothing."""
    return _values(stack) <= FEW_VALUES


def neighbours_alike(stack: np.ndarray, axis: int) -> bool:
    """Whether entries beside each other along an axis vary together over samples.

    What all entries along the axis have in common doesn't count: in a set they are all alike.
    """
    values = np.moveaxis(stack, axis, 0).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values -= values.mean(axis=0)
    values = values.reshape(len(values), -1)
    products = np.einsum("ij,ij->i", values[1:], values[:-1])
    power = np.einsum("ij,ij->i", values, values)
    scale = np.sqrt(power[1:] * power[:-1])
    varied = scale > 0
    if len(stack) < FEWEST or not varied.any():
        return False
    return bool(np.quantile(products[varied] / scale[varied], LEAST_ALIKE) > ALIKE)


def _steady(stack: np.ndarray, axis: int) -> bool:
    """Whether means over samples are the same all along an axis, but for chance."""
    values = stack.astype(np.float32)
    values -= values.mean(axis, keepdims=True)
    drift = np.square(values.mean(axis=0)).mean() / np.square(values).mean()
    return bool(drift - 1 / len(stack) < DRIFT)


def _sides(name: str, stack: np.ndarray) -> list[tuple[int, int]]:
    """List which axes may be height and width, the likeliest first."""
    if stack.ndim not in (3, 4):
        return []
    channels = InputSpec(name, stack.dtype, stack.shape).channel_axis
    known = {1: [(2, 3)], 3: [(1, 2)]}
    pairs = known.get(channels or 0, [(2, 3), (1, 2)] if stack.ndim == 4 else [(1, 2)])
    return [pair for pair in pairs if min(stack.shape[axis] for axis in pair) >= SHORTEST_SIDE]


def _long_axes(stack: np.ndarray) -> list[int]:
    """List the axes of a floating input that may be time, the longest first."""
    if not is_float(stack.dtype) or stack.ndim > 4:
        return []
    axes = [axis for axis in range(1, stack.ndim) if stack.shape[axis] >= SHORTEST_TIME]
    return sorted(axes, key=lambda axis: -stack.shape[axis])


def _values(stack: np.ndarray) -> int:
    return len(np.unique(stack if stack.dtype.isbuiltin else stack.astype(np.float32)))
