"""Verification: the last word before a model is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from .data import Calibration
from .errors import CheckError
from .report.records import Quality
from .runtime import Feed, run, session

TOLERANCE = {"float16": 5e-2, "bfloat16": 2e-1}  # relative to the largest output
FLOAT_TOLERANCE = 2e-3


def check_cut(
    masked: onnx.ModelProto, cut: onnx.ModelProto, feeds: Iterable[Feed], providers: Sequence[str]
) -> None:
    """Compare a cut model with the original whose removed channels are zeroed in their consumers.

    Before any refit the two are the same function, so any difference is a fault of the cut.

    Raises
    ------
    CheckError
        If an output differs by more than rounding.
    """
    sessions = session(masked, providers), session(cut, providers)
    for feed in feeds:
        expected, got = (run(active, None, feed) for active in sessions)
        for name, want in expected.items():
            _compare(name, want, got[name])


def _compare(name: str, want: np.ndarray, got: np.ndarray) -> None:
    if not isinstance(want, np.ndarray):
        return
    if want.shape != got.shape:
        raise CheckError(
            f"output {name}: the cut changed its shape", got=str(got.shape), expected=str(want.shape)
        )
    if want.dtype.kind != "f" or not want.size:
        return
    scale = np.abs(want, dtype=np.float64).max()
    bound = TOLERANCE.get(want.dtype.name, FLOAT_TOLERANCE)
    error = np.abs(want.astype(np.float64) - got).max()
    if not error <= bound * scale + 1e-12:
        raise CheckError(
            f"output {name}: the cut model is not the masked model",
            got=f"difference {error:.3g}",
            expected=f"at most {bound * scale:.3g}",
            hint="report the model's structure as a bug; --exclude the layers before that output",
        )


def check_file(original: onnx.ModelProto, pruned: onnx.ModelProto) -> None:
    """Check a model against the ONNX standard, and its interface against the original's.

    Raises
    ------
    CheckError
        If the interface changed, or the checker refuses the model though it accepts the original.
    """
    for kind in ("input", "output"):
        initializers = {t.name for t in original.graph.initializer}
        before, after = (
            [v for v in getattr(m.graph, kind) if v.name not in initializers] for m in (original, pruned)
        )
        if before != after:
            raise CheckError(f"the model's {kind}s changed", got=_names(after), expected=_names(before))
    problem = _checker(pruned)
    if problem is not None and _checker(original) is None:
        raise CheckError("the pruned model is not valid ONNX", got=problem)


def _names(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values)


def _checker(model: onnx.ModelProto) -> str | None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return None


def measure_quality(
    original: onnx.ModelProto,
    pruned: onnx.ModelProto,
    samples: Calibration,
    batch: int,
    *,
    pad: bool,
    providers: Sequence[str],
) -> Quality:
    """Compare two models' outputs over samples.

    Raises
    ------
    CheckError
        If the pruned model gives NaN or infinity where the original does not.
    """
    sessions = session(original, providers), session(pruned, providers)
    sums: dict[str, np.ndarray] = {}
    same: list[np.ndarray] = []
    for feed in samples.batches(batch, pad=pad):
        want, got = (run(active, None, feed) for active in sessions)
        for name, a in want.items():
            b = got[name]
            if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or a.shape != b.shape:
                continue
            if np.isfinite(a).all() and not np.isfinite(b).all():
                raise CheckError(f"output {name}: the pruned model gives NaN or infinity")
            a, b = a.astype(np.float64), b.astype(np.float64)
            terms = np.array([np.square(a - b).sum(), np.square(a).sum(), a.sum(), a.size])
            sums[name] = sums.get(name, np.zeros(4)) + terms
            if a.ndim == 2 and a.shape[1] > 1:
                same.append(a.argmax(1) == b.argmax(1))
    errors = {name: _relative(*total) for name, total in sums.items()}
    agreement = float(np.concatenate(same).mean()) if same else None
    return Quality(len(samples), errors, agreement)


def _relative(error: float, square: float, total: float, count: float) -> float:
    variance = square - total**2 / count
    return float(error / variance) if variance > 0 else float(error)
