"""Whether one of two models is nearer to the original, judged sample by sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.quality import outputs_of, squared_errors
from onnx_reap.measure.variation import Variation, by_sample
from onnx_reap.onnxio.light_model import LightModel

Errors = npt.NDArray[np.float64]

CLEAR = 2
"""Standard errors of a difference that is none of chance."""


@dataclass(frozen=True)
class Pair:
    """How far two models are from the original on the same samples; the second came later.

    Attributes
    ----------
    before, after : float
        Squared error over what the original's entries vary by, mean of the outputs.
    noise : float
        Standard error of the difference, from its spread over the samples.
    nearer : float
        Fraction of the samples on which the second is nearer, mean of the outputs. Those that are
        equal everywhere, or known of one sample only, tell nothing: without others it is 0, and
        `noise` infinite.
    """

    before: float
    after: float
    noise: float
    nearer: float

    @property
    def is_gain(self) -> bool:
        """Whether the second model is to be taken.

        Squared errors may hang on a few samples, and the best of many models may have been chosen
        on the same ones. Where the difference is not clear, most samples have to agree with it.
        """
        gain = self.before - self.after
        return gain > 0 and (gain > CLEAR * self.noise or self.nearer > 0.5)


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
    for name, count, values in outputs_of(analysis, models, samples):
        x, *each = (by_sample(analysis, name, value, count) for value in values)
        variations.setdefault(name, Variation()).add(x)
        old, new = (squared_errors(name, x, y) for y in each)
        errors.setdefault(name, []).append((old, new))
    return _pair(list(_relative(variations, errors)))


def _relative(
    variations: Mapping[str, Variation], errors: Mapping[str, list[tuple[Errors, Errors]]]
) -> Iterator[tuple[Errors, Errors]]:
    for name, parts in errors.items():
        scale = variations[name].relative(1.0)
        old, new = (np.concatenate(side) * scale for side in zip(*parts, strict=True))
        yield old, new


def _pair(outputs: Sequence[tuple[Errors, Errors]]) -> Pair:
    """Put outputs together, from the errors of two models by sample, (n,)."""
    before, after = (sum(float(each[side].sum()) for each in outputs) for side in (0, 1))
    gains = [old - new for old, new in outputs]
    telling = [each for each in gains if len(each) > 1 and each.any()]
    # Outputs of a sample err together: their noise does not average out.
    noise = sum(float(each.std(ddof=1)) * math.sqrt(len(each)) for each in telling)
    nearer = [float(np.mean(each > 0)) for each in telling]
    count = max(len(outputs), 1)
    return Pair(
        before / count,
        after / count,
        noise / count if telling else math.inf,
        sum(nearer) / max(len(nearer), 1),
    )
