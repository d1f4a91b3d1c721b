"""Move synthetic images until a model's activations have the statistics that it stores.

References
----------
H. Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, and
Y. Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, make images from noise
in this way; here they start from images with the statistics of natural ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.data import InputSpec
from onnx_reap.data.replaced import with_values
from onnx_reap.data.synthetic import as_pixels
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import batch_size
from onnx_reap.measure.synthesis.statistics import (
    Instrumented,
    Stored,
    instrumented,
    stored_statistics,
)
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.session import run, session
from onnx_reap.progress import Progress
from onnx_reap.solve.descent import Descent

STEPS = 10, 20  # at least and at most, as the work allows
SPEED = 0.05  # largest step, relative to the standard deviation of the images
FEWEST = 16  # images whose statistics say anything
TOGETHER = 64  # images that have the stored statistics together

WORK = 1.1e13
"""Multiply-accumulates of all passes: less than a minute on two cores."""

PER_ENTRY = 200
"""Multiply-accumulates in the time that the passes of a step take for an activation."""

PIXELS = {"0 to 255": (1.0, 0.0), "0 to 1": (1 / 255, 0.0), "-1 to 1": (2 / 255, -1.0)}
"""Ranges that models take pixels in, as a factor and a shift of stored ones."""

FAR_NEARER = 0.5  # of the distance that images have as they are, for another range to be taken

ORIGIN = "synthetic, matched to BatchNormalization"

Feed = Mapping[str, np.ndarray]
OnImages = Callable[[int], object]


def with_matched_samples(
    analysis: Analysis, inputs: Sequence[InputSpec], progress: Progress, *, scaled: bool = False
) -> Analysis:
    """Move synthetic images towards what the model was trained on, by gradient descent.

    Images first become pixels of another range if that fits far better. Then they move, within the
    range that they have; of a model that takes long, the first ones alone. Samples stay as they are
    where the model's only input is no image, where nothing is stored or no gradient reaches the
    input, where it would take too long, and where it doesn't bring images nearer.

    Parameters
    ----------
    inputs : sequence of InputSpec
        Of the model.
    scaled : bool
        Whether the range of pixels is known, and images have it.
    """
    given, whole = analysis.samples, analysis.fixed_batch or 1
    if len(inputs) != 1 or given.alone:
        return analysis
    (spec,) = inputs
    if spec.channel_axis is None or not is_float(spec.dtype):
        return analysis
    together = max(TOGETHER // whole, 1) * whole
    count, steps = affordable(analysis, len(given))
    count = _whole_groups(count // whole * whole, together)
    statistics = stored_statistics(analysis)
    written = instrumented(analysis, spec.name, statistics) if count and statistics else None
    if written is None:
        return analysis
    passes = _Passes(analysis, written, statistics, spec.name)
    images = next(given.at(range(count)).batches(count))[spec.name].astype(np.float32)
    before = passes.distance(images)
    pixels = None if scaled else _fitting_range(passes, images[:together])
    images = _in_range(images, pixels)
    with progress.stage("Matching statistics", steps * count) as step:
        for begin in range(0, count, together):
            group = images[begin : begin + together]
            group[:] = passes.descend(group, steps, step)
    after = passes.distance(images)
    if not after < before:
        return analysis
    samples = with_values(
        given,
        spec.name,
        images.astype(spec.dtype),
        lambda others: _in_range(others, pixels),
        origin=ORIGIN,
        notes=[_note(f"{count} of {len(given)}", len(statistics), before, after, pixels)],
    )
    return replace(analysis, samples=samples)


def affordable(analysis: Analysis, samples: int) -> tuple[int, int]:
    """Return how many images may be moved, and in how many steps: rather more images."""
    shapes = analysis.probe.shapes
    made = (t.name for node in analysis.model.nodes for t in node.outputs)
    entries = sum(np.prod(shapes[name]) for name in made if name in shapes) / analysis.probe.batch
    each = 4 * analysis.macs.at(analysis.full_widths) + PER_ENTRY * entries
    in_all = WORK / max(each, 1)
    steps = int(np.clip(in_all / samples, *STEPS))
    return int(min(samples, in_all / steps)), steps


def _whole_groups(count: int, together: int) -> int:
    """Leave out images behind the last whole group that are too few for one."""
    rest = count % together
    return count - rest if rest < min(FEWEST, together) else count


def _fitting_range(passes: _Passes, images: np.ndarray) -> str | None:
    """Name the range of pixels that fits far better than images as they are, if any does."""
    found = {each: passes.distance(_in_range(images, each)) for each in (None, *PIXELS)}
    best = min(PIXELS, key=lambda each: found[each])
    return best if found[best] < FAR_NEARER * found[None] else None


def _in_range(images: np.ndarray, pixels: str | None) -> np.ndarray:
    """Turn images of zero mean and unit variance into pixels of a range."""
    if pixels is None:
        return images
    factor, shift = PIXELS[pixels]
    return (as_pixels(images) * factor + shift).astype(images.dtype)


def _note(moved: str, norms: int, before: float, after: float, pixels: str | None) -> str:
    scaled = "" if pixels is None else f"; pixels of {pixels} fit best"
    return (
        f"no --data: errors are those on synthetic samples; {moved} were moved until activations "
        f"have the means and variances that {norms} BatchNormalizations store (distance "
        f"{before:.2g} before, {after:.2g} after{scaled})"
    )


class _Passes:
    """Runs a model forward and backward over images."""

    def __init__(
        self, analysis: Analysis, written: Instrumented, statistics: Mapping[str, Stored], fed: str
    ) -> None:
        self._written, self._statistics, self._fed = written, statistics, fed
        self._forward = session(written.forward, analysis.providers)
        self._backward = session(written.backward, analysis.providers)
        made = [name for node in written.backward.graph.node for name in node.output]
        self._batch = analysis.fixed_batch or batch_size(analysis.probe, made, None)
        shapes = {name: analysis.probe.shapes[name] for name in statistics}
        # By tensor, entries a channel of one sample
        self._entries = {
            name: np.prod(shape) / shape[1] / analysis.probe.batch for name, shape in shapes.items()
        }

    def distance(self, images: np.ndarray) -> float:
        """Return how far images are from the statistics, see `Stored.distance`."""
        return self._compared(images)[0]

    def descend(self, images: np.ndarray, steps: int, on_images: OnImages) -> np.ndarray:
        """Return moved images."""
        low, high, size = images.min(), images.max(), float(images.std())
        descent = Descent({self._fed: images}, {self._fed: size}, steps, SPEED)
        x = descent.values[self._fed]
        for _ in range(steps):
            descent.step({self._fed: self.gradient(x, on_images)})
            np.clip(x, low, high, out=x)
        return x

    def gradient(self, images: np.ndarray, on_images: OnImages = lambda count: None) -> np.ndarray:
        """Return the gradient of the distance at images."""
        _, starts = self._compared(images)
        found: list[np.ndarray] = []
        for some in self._runs(images):
            found += run(self._backward, None, {self._fed: some, **starts}).values()
            on_images(len(some))
        return np.concatenate(found)

    def _compared(self, images: np.ndarray) -> tuple[float, Feed]:
        """Return the distance, and what its gradient starts from."""
        moments = {n: np.zeros((2, len(s.mean))) for n, s in self._statistics.items()}
        for some in self._runs(images):
            result = run(self._forward, None, {self._fed: some})
            for name, outputs in self._written.moments.items():
                pair = np.stack([result[each] for each in outputs])
                moments[name] += len(some) / len(images) * pair
        found, starts = [], dict[str, np.ndarray]()
        for name, stored in self._statistics.items():
            distance, rows = stored.distance(moments[name])
            rows = rows / (self._entries[name] * len(images) * len(self._statistics))
            starts |= dict(zip(self._written.starts[name], rows.astype(np.float32), strict=True))
            found.append(distance)
        return float(np.mean(found)), starts

    def _runs(self, images: np.ndarray) -> Iterator[np.ndarray]:
        for begin in range(0, len(images), self._batch):
            yield images[begin : begin + self._batch]
