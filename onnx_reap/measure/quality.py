"""How close the outputs of two models are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import run_batches
from onnx_reap.measure.variation import Variation, by_sample
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.light_model import LightModel


@dataclass(frozen=True)
class Quality:
    """How close the pruned model is to the original on some samples."""

    samples: int
    # By output: squared error over what the original's entries vary by, see `variation`
    output_error: Mapping[str, float]
    # Fraction of samples with the same largest entry, for outputs that look like class scores
    top1_agreement: float | None


def quality(analysis: Analysis, pruned: LightModel, samples: Calibration) -> Quality:
    """Compare a pruned model's outputs with the original's; see `measure_quality`."""
    original, pruned = analysis.runnable(analysis.light), analysis.runnable(pruned)
    return measure_quality(analysis, original, pruned, samples)


def measure_quality(
    analysis: Analysis, original: LightModel, pruned: LightModel, samples: Calibration
) -> Quality:
    """Compare two models' outputs over samples."""
    variations: dict[str, Variation] = {}
    errors: dict[str, float] = {}
    same: list[np.ndarray] = []
    for name, count, (a, b) in outputs_of(analysis, [original, pruned], samples):
        x, y = (by_sample(analysis, name, each, count) for each in (a, b))
        variations.setdefault(name, Variation()).add(x)
        errors[name] = errors.get(name, 0.0) + float(squared_errors(name, x, y).sum())
        if a.ndim == 2 and a.shape[1] > 1:
            same.append(a.argmax(1) == b.argmax(1))
    relative = {name: variations[name].relative(error) for name, error in errors.items()}
    agreement = float(np.concatenate(same).mean()) if same else None
    return Quality(len(samples), relative, agreement)


Terms = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""For each sample, its squared error and its squared deviations, summed over entries, (n,)."""


def error_terms(
    analysis: Analysis, samples: Calibration
) -> Callable[[LightModel], dict[str, Terms]]:
    """Make the function that tells what the error of each output is made of, see `variation`."""
    original = analysis.runnable(analysis.light)
    variations: dict[str, Variation] = {}
    for name, count, (a,) in outputs_of(analysis, [original], samples):
        variations.setdefault(name, Variation()).add(by_sample(analysis, name, a, count))

    def terms(pruned: LightModel) -> dict[str, Terms]:
        found: dict[str, list[Terms]] = {}
        models = [original, analysis.runnable(pruned)]
        for name, count, both in outputs_of(analysis, models, samples):
            x, y = (by_sample(analysis, name, each, count) for each in both)
            error = squared_errors(name, x, y)
            found.setdefault(name, []).append((error, variations[name].deviations(x)))
        return {name: _joined(parts) for name, parts in found.items()}

    return terms


def _joined(parts: Sequence[Terms]) -> Terms:
    errors, deviations = zip(*parts, strict=True)
    return np.concatenate(errors), np.concatenate(deviations)


def outputs_of(
    analysis: Analysis, models: Sequence[LightModel], samples: Calibration
) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """Run models side by side over samples.

    Yields
    ------
    name : str
        Of an output that holds real numbers, in the same shape in all models.
    count : int
        Of the samples in this run.
    values : list of array
        By model.
    """
    for count, runs in run_batches(analysis, models, samples):
        for name, first in runs[0].items():
            values = [outputs[name] for outputs in runs]
            if not isinstance(first, np.ndarray) or not is_float(first.dtype):
                continue
            if all(first.shape == each.shape for each in values):  # else values tell how many rows
                yield name, count, values


def squared_errors(name: str, a: np.ndarray, b: np.ndarray) -> npt.NDArray[np.float64]:
    """Sum over the entries of each sample that are finite in the original, (n,)."""
    finite = np.isfinite(a)
    if not np.isfinite(b[finite]).all():
        raise CheckError(
            f"output {name}: the pruned model gives NaN or infinity where the original doesn't",
            hint="prune less, or bring more calibration samples",
        )
    away = np.subtract(a, b, out=np.zeros_like(a), where=finite)
    result: npt.NDArray[np.float64] = np.square(away).reshape(len(a), -1).sum(axis=1)
    return result
