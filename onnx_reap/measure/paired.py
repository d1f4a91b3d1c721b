"""Whether one of two models is nearer to the original, judged sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.quality import comparable, squared_errors
from onnx_reap.measure.runner import run_batches
from onnx_reap.measure.variation import Variation, by_sample
from onnx_reap.onnxio.light_model import LightModel

Errors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """How far two models are from the original on the same samples; the second came later.

    Attributes
    ----------
    before, after : float
        Squared error over what the original's entries vary by, mean of the outputs.
    noise : float
        Standard error of the difference, from its spread over the samples; infinite for one.
    nearer : float
        Fraction of the samples on which the second is nearer.
    """

    before: float
    after: float
    noise: float
    nearer: float

    @property
    def is_gain(self) -> bool:
        """Whether the second model is to be taken.

        Squared errors may hang on a few samples. Where the difference is within its noise, most
        samples have to agree with it. A single one tells nothing.
        """
        gain = self.before - self.after
        agree = self.nearer > 0.5 and math.isfinite(self.noise)
        return gain > 0 and (gain > self.noise or agree)


def compare(
    analysis: Analysis,
    original: LightModel,
    before: LightModel,
    after: LightModel,
    samples: Calibration,
) -> Pair:
    """Compare two models' outputs with the original's over samples.

    Raises
    ------
    CheckError
        If one of the two gives what is not finite where the original doesn't.
    """
    variations: dict[str, Variation] = {}
    errors: dict[str, list[tuple[Errors, Errors]]] = {}
    models = [original, before, after]
    for count, (want, *got) in run_batches(analysis, models, samples):
        for name, a, b in comparable(want, got[0]):
            x, *each = (by_sample(analysis, name, v, count) for v in (a, b, got[1][name]))
            variations.setdefault(name, Variation()).add(x)
            old, new = (squared_errors(name, x, y) for y in each)
            errors.setdefault(name, []).append((old, new))
    pairs = list(_relative(variations, errors))
    if not pairs:
        return Pair(0.0, 0.0, 0.0, 0.0)
    # Outputs of a sample err together: their noise does not average out.
    return Pair(*np.mean([_pair(old, new) for old, new in pairs], axis=0).tolist())


def _relative(
    variations: dict[str, Variation], errors: dict[str, list[tuple[Errors, Errors]]]
) -> Iterator[tuple[Errors, Errors]]:
    for name, parts in errors.items():
        scale = variations[name].relative(1.0)
        old, new = (np.concatenate(side) * scale for side in zip(*parts, strict=True))
        yield old, new


def _pair(old: Errors, new: Errors) -> tuple[float, float, float, float]:
    """Return the numbers of a pair for one output, from errors by sample, (n,)."""
    gains = old - new
    noise = gains.std(ddof=1) * np.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return float(old.sum()), float(new.sum()), float(noise), float(np.mean(gains > 0))
