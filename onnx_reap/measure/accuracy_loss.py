"""How much worse a model is, on samples that it was not made from, and how sure that is.

Without labels a classifier's loss is the share of samples on which its first choice is another than
the original's, see `disagreement`: its accuracy can't have dropped by more. Other models' loss is
their squared output error relative to the variance of the original's output. With labels it is the
accuracy that was lost, and a function of the user's may measure anything.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.labels import hits, read_labels
from onnx_reap.errors import ReapError, TargetError
from onnx_reap.measure.scores import class_outputs, class_scores
from onnx_reap.onnxio import aside
from onnx_reap.prune.apply import quality
from onnx_reap.prune.context import Run as Work
from onnx_reap.solve.disagreement import changed_share
from onnx_reap.solve.intervals import LIKELY, agresti_min, wilson

Judge = Callable[[onnx.ModelProto], "Drop"]
Evaluate = Callable[[onnx.ModelProto], float]


@dataclass(frozen=True)
class Drop:
    """What was lost.

    Attributes
    ----------
    kind : str
        `top-1 disagreement`, `output error`, `accuracy` or `evaluate`.
    value : float
        Loss as a fraction; at most 0 where nothing was lost.
    likely : float
        What the loss on other samples does not exceed, with odds of 3 to 1; `value` where that is
        not known.
    low, high : float or None
        95 % confidence interval; None where it is not known.
    samples : int
        Number of samples; 0 where a function of the user's evaluates.
    """

    kind: str
    value: float
    likely: float
    low: float | None
    high: float | None
    samples: int


def drop_judge(work: Work) -> Judge:
    """Make the function that tells how much worse a model is than the original.

    Raises
    ------
    TargetError
        If there are too few samples to show that the loss is within the bound.
    ReapError
        If there are none, or labels or the function can't be used.
    """
    settings = work.settings
    if settings.evaluate is not None:
        return _by_function(work, settings.evaluate)
    held_out = held_out_for("--max-drop", work)
    least = least_shown(work)
    if settings.max_drop is not None and settings.max_drop < least:
        raise TargetError(
            "--max-drop: too few samples to show so small a loss",
            got=f"{len(held_out)} samples held out, which show {least:.2%} at best",
            expected=f"at most {settings.max_drop:.2%}",
            hint="bring more data, allow more, or name a budget such as --target-macs alone",
        )
    if settings.labels is not None:
        return _by_labels(work, held_out, read_labels(settings.labels, work.samples.every))
    return _against_original(work, held_out)


def least_shown(work: Work) -> float:
    """Return the loss that is likely not exceeded where no sample that is held out shows any."""
    n = 0 if work.samples.held_out is None else len(work.samples.held_out)
    if work.settings.evaluate is not None:
        return 0.0
    if n == 0:
        return math.inf
    if work.settings.labels is not None:
        return agresti_min(0, 0, n, LIKELY)[1]
    return wilson(0, n, LIKELY)[1] if class_outputs(work) else 0.0


def held_out_for(purpose: str, work: Work) -> Calibration:
    """Return the samples that judge.

    Parameters
    ----------
    purpose : str
        The flag that needs them.

    Raises
    ------
    ReapError
        If there are none.
    """
    if work.samples.held_out is None:
        raise ReapError(
            f"{purpose}: no samples to judge the result on",
            got=work.samples.every.origin,
            expected="20 samples or more",
            hint="give --data",
        )
    return work.samples.held_out


def _against_original(work: Work, samples: Calibration) -> Judge:
    n, before = len(samples), class_scores(work, samples, work.analysis.proto)
    known = before
    if work.samples.fit is not None:
        fitted = class_scores(work, work.samples.fit, work.analysis.proto)
        known = {name: np.concatenate([x, fitted[name]]) for name, x in before.items()}

    def judge(model: onnx.ModelProto) -> Drop:
        if not before:
            value = max(_output_errors(work, samples, model))
            return Drop("output error", value, value, None, None, n)
        after = class_scores(work, samples, model)
        # Of several outputs, the one that changes most.
        share, error = max(
            changed_share(scores, after[name], known[name]) for name, scores in before.items()
        )
        worth = share * (1 - share) / error**2 if error > 0 and share < 1 else n  # counted samples
        likely = wilson(share, worth, LIKELY)[1]
        return Drop("top-1 disagreement", share, likely, *wilson(share, worth), n)

    return judge


def _output_errors(work: Work, samples: Calibration, model: onnx.ModelProto) -> list[float]:
    errors = [*quality(work.analysis, model, samples).output_error.values()]
    if not errors:
        raise ReapError(
            "--max-drop: no output tells what is lost",
            got=", ".join(output.name for output in model.graph.output),
            expected="an output of real numbers, of the same shape for both models",
            hint="measure it by --evaluate module:function, or name a budget such as --target-macs",
        )
    return errors


def _by_labels(
    work: Work, samples: Calibration, labels: np.ndarray
) -> Callable[[onnx.ModelProto], Drop]:
    right = hits(work, samples, labels)
    before, n = right(work.analysis.proto), len(samples)

    def judge(model: onnx.ModelProto) -> Drop:
        after = right(model)
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        likely = agresti_min(lost, gained, n, LIKELY)[1]
        return Drop("accuracy", (lost - gained) / n, likely, *agresti_min(lost, gained, n), n)

    return judge


def _by_function(work: Work, evaluate: str | Evaluate) -> Callable[[onnx.ModelProto], Drop]:
    function = find_function(evaluate) if isinstance(evaluate, str) else evaluate
    before = _evaluated(function, work.analysis.proto)
    if before <= 0:
        raise ReapError(
            "--evaluate: the original's value is no measure of quality",
            got=f"{before:g}",
            expected="more than 0, and more for better models",
        )

    def judge(model: onnx.ModelProto) -> Drop:
        value = 1 - _evaluated(function, model) / before
        return Drop("evaluate", value, value, None, None, 0)

    return judge


def _evaluated(function: Evaluate, model: onnx.ModelProto) -> float:
    try:
        value = float(function(aside.whole(model)))
    except Exception as error:  # whatever a user's function raises, or returns instead of a number
        raise ReapError(
            "--evaluate: the function failed",
            got=f"{type(error).__name__}: {error}",
            expected="a number for an onnx.ModelProto",
            hint="call it on the original model alone",
        ) from error
    if not math.isfinite(value):
        raise ReapError("--evaluate: not a number", got=str(value), expected="a finite number")
    return value


def find_function(name: str) -> Evaluate:
    """Import `module:function`; modules in the current folder are found, too.

    Raises
    ------
    ReapError
        If there is no such function.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module raises when it is imported
        raise ReapError(
            "--evaluate: no such function",
            got=f"{name} ({type(error).__name__}: {error})",
            expected="module:function, which takes an onnx.ModelProto and returns a number, more "
            "for better models",
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ReapError("--evaluate: not a function", got=name, expected="module:function")
    return found
