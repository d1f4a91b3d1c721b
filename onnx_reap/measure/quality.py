"""How close the outputs of two models are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.data import Calibration
from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import Outputs, run_batches
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
    for count, (want, got) in run_batches(analysis, [original, pruned], samples):
        for name, a, b in comparable(want, got):
            x = by_sample(analysis, name, a, count)
            variations.setdefault(name, Variation()).add(x)
            each = squared_errors(name, x, by_sample(analysis, name, b, count))
            errors[name] = errors.get(name, 0.0) + float(each.sum())
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
    for count, (outputs,) in run_batches(analysis, [original], samples):
        for name, a, _ in comparable(outputs, outputs):
            variations.setdefault(name, Variation()).add(by_sample(analysis, name, a, count))

    def terms(pruned: LightModel) -> dict[str, Terms]:
        found: dict[str, list[Terms]] = {}
        models = [original, analysis.runnable(pruned)]
        for count, (want, got) in run_batches(analysis, models, samples):
            for name, a, b in comparable(want, got):
                x, y = (by_sample(analysis, name, each, count) for each in (a, b))
                error = squared_errors(name, x, y)
                found.setdefault(name, []).append((error, variations[name].deviations(x)))
        return {name: _joined(parts) for name, parts in found.items()}

    return terms


def _joined(parts: Sequence[Terms]) -> Terms:
    errors, deviations = zip(*parts, strict=True)
    return np.concatenate(errors), np.concatenate(deviations)


def comparable(want: Outputs, got: Outputs) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the outputs that hold real numbers, in the same shape in both models."""
    for name, a in want.items():
        b = got[name]
        if isinstance(a, np.ndarray) and is_float(a.dtype) and a.shape == b.shape:
            yield name, a, b


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
