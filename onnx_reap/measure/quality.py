"""How close the outputs of two models are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import run_batches
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.light_model import LightModel


@dataclass(frozen=True)
class Quality:
    """How close the pruned model is to the original on some samples."""

    samples: int
    # By output: squared error over the variance of the original output
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
    sums: dict[str, np.ndarray] = {}
    same: list[np.ndarray] = []
    for _, (want, got) in run_batches(analysis, [original, pruned], samples):
        for name, a in want.items():
            b = got[name]
            if not isinstance(a, np.ndarray) or not is_float(a.dtype) or a.shape != b.shape:
                continue
            a, b = a.astype(np.float64), b.astype(np.float64)
            sums[name] = sums.get(name, np.zeros(4)) + _terms(name, a, b)
            if a.ndim == 2 and a.shape[1] > 1:
                same.append(a.argmax(1) == b.argmax(1))
    errors = {name: _relative(*total) for name, total in sums.items()}
    agreement = float(np.concatenate(same).mean()) if same else None
    return Quality(len(samples), errors, agreement)


def _terms(name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum what the relative error needs, over the entries that are finite in the original."""
    finite = np.isfinite(a)
    a, b = a[finite], b[finite]
    if not np.isfinite(b).all():
        raise CheckError(
            f"output {name}: the pruned model gives NaN or infinity where the original doesn't",
            hint="prune less, or bring more calibration samples",
        )
    return np.array([np.square(a - b).sum(), np.square(a).sum(), a.sum(), a.size])


def _relative(error: float, square: float, total: float, count: float) -> float:
    variance = square - total**2 / max(count, 1)
    return float(error / variance) if variance > 0 else float(error)
