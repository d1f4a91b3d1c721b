"""What real models are fed: rendered text, random images, tones and numbers of symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnx_reap.data.leaves import dead_leaves

Feed = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator], Feed]
"""Draws one sample, without a batch axis."""

LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789     .,-:")


def stacked(samples: Iterable[Feed]) -> Feed:
    """Put samples behind each other along a new first axis."""
    samples = list(samples)
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def photo(
    name: str,
    height: int,
    width: int,
    low: float,
    high: float,
    *,
    channels: int = 3,
    last: bool = False,
) -> Draw:
    """Random images with values from `low` (black) to `high` (white)."""

    def draw(rng: np.random.Generator) -> Feed:
        image = np.clip(0.45 + 0.26 * dead_leaves(rng, height, width, channels), 0, 1)
        return {name: _scaled(image if last else image.transpose(2, 0, 1), low, high)}

    return draw


def text(
    name: str, height: int, width: int, *, channels: int = 3, upside_down: bool = False
) -> Draw:
    """One line of text on paper, with values from -1 (black) to 1 (white); half upside down."""

    def draw(rng: np.random.Generator) -> Feed:
        image = _written(rng, height, width, lines=1)
        if upside_down and rng.random() < 0.5:
            image = image[::-1, ::-1]
        return {name: np.repeat(_scaled(image, -1, 1)[None], channels, axis=0)}

    return draw


def page(
    name: str, height: int, width: int, low: float, high: float, *, turned: bool = False
) -> Draw:
    """Pages of text with values from `low` to `high`, square ones `turned` by any quarter."""

    def draw(rng: np.random.Generator) -> Feed:
        image = _written(rng, height, width, lines=int(rng.integers(2, 8)))
        if turned:
            image = np.rot90(image, int(rng.integers(4)))
        return {name: np.repeat(_scaled(image, low, high)[None], 3, axis=0)}

    return draw


def _written(rng: np.random.Generator, height: int, width: int, *, lines: int) -> np.ndarray:
    """Text in a random size and place, from 0 (black) to 1 (white), with some noise."""
    paper, ink = rng.uniform(160, 255), rng.uniform(0, 110)
    sheet = Image.new("L", (width, height), int(paper))
    pen = ImageDraw.Draw(sheet)
    room = height / lines
    for line in range(lines):
        size = room * rng.uniform(0.45, 0.8)
        written = "".join(rng.choice(LETTERS, 1 + int(2 * width / size)))
        place = (rng.uniform(0, 0.1) * width, line * room + rng.uniform(0, 0.9) * (room - size))
        pen.text(place, written, fill=int(ink), font=ImageFont.load_default(size))
    noise = rng.normal(0, rng.uniform(0, 12), (height, width))
    return np.clip((np.asarray(sheet, np.float32) + noise) / 255, 0, 1)


def _scaled(image: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low + (high - low) * image).astype(np.float32)


def sound(name: str, *shape: int) -> Draw:
    """Chords of decaying tones in noise, along the last axis that is longer than one."""

    def draw(rng: np.random.Generator) -> Feed:
        size = int(np.prod(shape))
        at = np.arange(size)
        tones = np.exp(rng.uniform(np.log(0.005), np.log(1.0), (5, 1)))
        decay = np.exp(-at * rng.uniform(0, 8, (5, 1)) / size)
        heard = (rng.uniform(0, 0.2, (5, 1)) * decay * np.sin(tones * at)).sum(0)
        heard += rng.normal(0, rng.uniform(0.001, 0.02), size)
        return {name: heard.reshape(shape).astype(np.float32)}

    return draw


def features(name: str, *shape: int) -> Draw:
    """Noise that is smooth along the last axis."""

    def draw(rng: np.random.Generator) -> Feed:
        noise = rng.standard_normal(shape) + 2 * rng.standard_normal((*shape[:-1], 1))
        smooth = np.cumsum(noise, axis=-1)
        return {name: ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)}

    return draw


def numbers(name: str, high: int, *shape: int, kind: type = np.int64) -> Draw:
    """Numbers of symbols, small ones more often."""

    def draw(rng: np.random.Generator) -> Feed:
        return {name: (high * rng.random(shape) ** 2).astype(kind)}

    return draw


def constant(name: str, value: np.ndarray) -> Draw:
    """Feed the same to every sample."""
    return lambda rng: {name: value}


def both(*draws: Draw) -> Draw:
    """Several inputs."""
    return lambda rng: {name: x for draw in draws for name, x in draw(rng).items()}
