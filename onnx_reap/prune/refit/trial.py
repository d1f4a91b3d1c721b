"""Changes of a cut model that are kept only if its outputs come nearer on the validation split."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from onnx_reap.errors import CheckError, ReapError
from onnx_reap.graph.edit.weights import remember
from onnx_reap.graph.ir.model import Model
from onnx_reap.measure.paired import Pair, compare
from onnx_reap.measure.quality import measure_quality
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.context import Run

R = TypeVar("R")


def attempt(run: Run, pruned: Model, change: Callable[[], tuple[R, bool]]) -> tuple[R | None, str]:
    """Change a cut model in place; undo it if that fails, or outputs don't come nearer.

    Parameters
    ----------
    change : callable
        Changes the model. Returns what is to be told of that, and whether anything moved; if not,
        nothing is compared.

    Returns
    -------
    told : what is to be told, or None
        None if it was undone.
    why : str
        Why it was undone; empty otherwise.
    """
    undo, before = remember(pruned), _rounded(pruned)
    try:
        told, moved = change()
    except ReapError as error:  # what came before still stands
        undo()
        return None, str(error)
    if not moved:
        return told, ""
    pair = _compared(run, before, _rounded(pruned))
    if pair is not None and pair.is_gain:
        return told, ""
    undo()
    return None, f"on the validation split {_told(pair)}"


def distance(run: Run, wanted: LightModel, found: LightModel) -> float:
    """Mean error of the outputs on validation samples; infinite where they aren't finite.

    Both models run in float32, which tells more.
    """
    parts = run.samples.train_validation
    assert parts is not None
    try:
        errors = measure_quality(run.analysis, wanted, found, parts[1]).output_error
    except CheckError:
        return math.inf
    return float(np.mean(list(errors.values()))) if errors else 0.0


def _compared(run: Run, before: LightModel, after: LightModel) -> Pair | None:
    """Compare two models on the validation split; None if an output is not finite."""
    parts = run.samples.train_validation
    assert parts is not None
    try:
        return compare(run.analysis, run.analysis.model.to_run(), before, after, parts[1])
    except CheckError:
        return None


def _rounded(pruned: Model) -> LightModel:
    """Write a model to run it, constants rounded to integers where the file has these."""
    return pruned.to_file() if pruned.stored else pruned.to_run()


def _told(pair: Pair | None) -> str:
    if pair is None:
        return "the outputs were not finite"
    before, after = (f"{error:.2g}" for error in (pair.before, pair.after))
    way = f"went from {before} to {after}" if before != after else f"stayed at {before}"
    errors = f"the outputs' error {way}"
    if pair.after >= pair.before:
        return errors
    if not math.isfinite(pair.noise):
        return f"{errors}, and there are too few samples to tell"
    return f"{errors}, which may be noise, and on most samples it did not fall"
