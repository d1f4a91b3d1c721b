"""Move synthetic images until a model's activations have the statistics that it stores.

References
----------
H. Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, and
Y. Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, make images from noise
in this way; here they start from images with the statistics of natural ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_reap.data import InputSpec
from onnx_reap.data.replaced import with_values
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
from onnx_reap.solve.adam import Descent

STEPS = 20
SPEED = 0.1  # largest step, relative to the standard deviation of the images
FEWEST = 16  # images whose statistics say anything

WORK = 6e12
"""Multiply-accumulates of all passes: a minute on two cores."""

PER_ENTRY = 200
"""Multiply-accumulates in the time that a forward and a backward pass take for an activation."""

ORIGIN = "synthetic, matched to BatchNormalization"

Feed = Mapping[str, np.ndarray]


def with_matched_samples(
    analysis: Analysis, inputs: Sequence[InputSpec], progress: Progress
) -> Analysis:
    """Move synthetic images towards what the model was trained on, by gradient descent.

    Values stay in the range that the given images have. Of a model that takes long, the first
    images alone are moved. Samples stay as they are where the model's only
    input is no image, where nothing is stored or no gradient reaches the input, where it would take
    too long, and where it doesn't bring images nearer.

    Parameters
    ----------
    inputs : sequence of InputSpec
        Of the model.
    """
    given = analysis.samples
    if len(inputs) != 1 or given.alone:
        return analysis
    (spec,) = inputs
    if spec.channel_axis is None or not is_float(spec.dtype):
        return analysis
    count = affordable(analysis, len(given))
    statistics = stored_statistics(analysis)
    if count < FEWEST or not statistics:
        return analysis
    written = instrumented(analysis, spec.name, statistics)
    if written is None:
        return analysis
    images = next(given.at(range(count)).batches(count))[spec.name]
    descent = _Passes(analysis, written, statistics, spec.name, count)
    with progress.stage("Matching statistics", (STEPS + 2) * count) as step:
        moved, before, after = descent.descend(images.astype(np.float32), step)
    if not after < before:
        return analysis
    values, notes = moved.astype(spec.dtype), [_note(len(statistics), before, after)]
    samples = with_values(given, spec.name, values, origin=ORIGIN, notes=notes)
    return replace(analysis, samples=samples)


def _note(count: int, before: float, after: float) -> str:
    return (
        "no --data: errors are those on synthetic samples, which were moved until activations have "
        f"the means and variances that {count} BatchNormalizations store (distance "
        f"{before:.2g} before, {after:.2g} after)"
    )


def affordable(analysis: Analysis, samples: int) -> int:
    """Return how many images may be moved; whole batches, where a model insists on their size."""
    shapes = analysis.probe.shapes
    made = (t.name for node in analysis.model.nodes for t in node.outputs)
    entries = sum(np.prod(shapes[name]) for name in made if name in shapes) / analysis.probe.batch
    each = 3 * analysis.macs.at(analysis.full_widths) + PER_ENTRY * entries
    count = int(min(samples, WORK / (STEPS * max(each, 1))))
    return count - count % (analysis.fixed_batch or 1)


class _Passes:
    """Runs a model forward and backward over all images."""

    def __init__(
        self,
        analysis: Analysis,
        written: Instrumented,
        statistics: Mapping[str, Stored],
        fed: str,
        count: int,
    ) -> None:
        self._written, self._statistics, self._fed = written, statistics, fed
        self._session = session(written.model, analysis.providers)
        made = [name for node in written.model.graph.node for name in node.output]
        self._batch = analysis.fixed_batch or batch_size(analysis.probe, made, None)
        shapes, share = analysis.probe.shapes, count / analysis.probe.batch
        self._entries = {n: np.prod(shapes[n]) / shapes[n][1] * share for n in statistics}

    def descend(
        self, images: np.ndarray, on_images: Callable[[int], object]
    ) -> tuple[np.ndarray, float, float]:
        """Return moved images, and the distances before and after.

        The gradient of a step starts from the moments of the step before, which lets one pass do.
        """
        low, high, size = images.min(), images.max(), float(images.std())
        descent = Descent({self._fed: images}, {self._fed: size}, STEPS, SPEED)
        x = descent.values[self._fed]
        _, before, starts = self._pass(x, self._starts({}), on_images)
        for _ in range(STEPS):
            gradient, _, starts = self._pass(x, starts, on_images)
            descent.step({self._fed: gradient})
            np.clip(x, low, high, out=x)
        _, after, _ = self._pass(x, starts, on_images)
        return x, before, after

    def _pass(
        self, images: np.ndarray, starts: Feed, on_images: Callable[[int], object]
    ) -> tuple[np.ndarray, float, Feed]:
        """Return the gradient at the images, their distance, and what the next one starts from."""
        gradient, count = np.empty_like(images), len(images)
        moments = {n: np.zeros((2, len(s.mean))) for n, s in self._statistics.items()}
        for begin in range(0, count, self._batch):
            some = images[begin : begin + self._batch]
            found = run(self._session, None, {self._fed: some, **starts})
            gradient[begin : begin + len(some)] = found[self._written.gradient]
            for name, outputs in self._written.moments.items():
                moments[name] += len(some) / count * np.stack([found[each] for each in outputs])
            on_images(len(some))
        distances = {n: s.distance(moments[n]) for n, s in self._statistics.items()}
        mean = float(np.mean([distance for distance, _ in distances.values()]))
        return gradient, mean, self._starts({n: start for n, (_, start) in distances.items()})

    def _starts(self, found: Mapping[str, np.ndarray]) -> Feed:
        """Return what to feed for the gradient of the mean distance, by default for none."""
        feed: dict[str, np.ndarray] = {}
        for name, inputs in self._written.starts.items():
            zeros = np.zeros((2, len(self._statistics[name].mean)))
            rows = found.get(name, zeros) / (self._entries[name] * len(self._statistics))
            feed |= zip(inputs, rows.astype(np.float32), strict=True)
        return feed
