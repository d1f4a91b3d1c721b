"""Last checks before a model is written: its file, and how close its outputs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.spec import is_float
from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import run_batches
from onnx_reap.onnxio import aside


@dataclass(frozen=True)
class Quality:
    """How close the pruned model is to the original on some samples.

    Attributes
    ----------
    samples : int
    output_error : mapping of str to float
        By output: squared error over the variance of the original output.
    top1_agreement : float, optional
        Fraction of samples with the same largest entry, for outputs that look like class scores.
    """

    samples: int
    output_error: Mapping[str, float]
    top1_agreement: float | None


def check_file(original: onnx.ModelProto, pruned: onnx.ModelProto) -> list[str]:
    """Check a model against the ONNX standard, and its interface against the original's.

    Returns
    -------
    list of str
        What could not be checked.

    Raises
    ------
    CheckError
        If the interface changed, or the checker refuses the model though it accepts the original.
    """
    for kind in ("input", "output"):
        before, after = (_declared(model, kind) for model in (original, pruned))
        if before != after:
            raise CheckError(
                f"the model's {kind}s changed", got=_names(after), expected=_names(before)
            )
    if list(original.opset_import) != list(pruned.opset_import):
        raise CheckError("the model's operator sets changed")
    problem = _checker(pruned)
    if problem is None:
        return []
    if _checker(original) is None:
        raise CheckError(
            "the pruned model is not valid ONNX",
            got=problem,
            expected="what onnx.checker accepts, as it does the original",
            hint="report it as a bug; --exclude the node that is named",
        )
    return ["onnx.checker refuses the original model, so the result could not be checked by it"]


def _declared(model: onnx.ModelProto, kind: str) -> list[onnx.ValueInfoProto]:
    """List inputs or outputs; IR 3 lists initializers among the inputs, which may shrink."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in getattr(model.graph, kind) if value.name not in initializers]


def _names(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values)


def _checker(model: onnx.ModelProto) -> str | None:
    try:
        onnx.checker.check_model(aside.with_weights_as_inputs(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return None


def quality(analysis: Analysis, pruned: onnx.ModelProto, samples: Calibration) -> Quality:
    """Compare a pruned model's outputs with the original's; see `measure_quality`."""
    original, pruned = analysis.runnable(analysis.proto), analysis.runnable(pruned)
    return measure_quality(analysis, original, pruned, samples)


def measure_quality(
    analysis: Analysis, original: onnx.ModelProto, pruned: onnx.ModelProto, samples: Calibration
) -> Quality:
    """Compare two models' outputs over samples.

    Raises
    ------
    CheckError
        If the pruned model gives NaN or infinity where the original does not.
    """
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
