"""How much worse a model is, on samples that it was not fitted to, and how sure that is.

Without labels a classifier's loss is the share of samples on which its first choice is another than
the original's, see `disagreement`: its accuracy can't have dropped by more. Other models' loss is
their output error, see `variation`. With labels it is the accuracy that was lost, and a function of
the user's may measure anything.
"""

import importlib
import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.data.labels import read_labels
from onnx_reap.data.split import DECIDING, FEWEST_TO_SPLIT, Samples
from onnx_reap.errors import ReapError, TargetError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.accuracy import class_outputs, class_scores, correct_on
from onnx_reap.measure.quality import error_terms
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.options import Settings
from onnx_reap.solve.disagreement import changed_share
from onnx_reap.solve.intervals import LIKELY, agresti_min, ratio_interval, wilson

Evaluate = Callable[[onnx.ModelProto], float]


OUTPUT_ERROR = "output error"


@dataclass(frozen=True)
class EstimatedLoss:
    """What a model loses against the original."""

    kind: str  # `top-1 disagreement`, `output error`, `accuracy` or `evaluate`
    value: float  # Loss as a fraction; at most 0 where nothing was lost
    # What the loss on other samples does not exceed with 75 % confidence; `value` where that is
    # not known
    likely: float
    # 95 % confidence interval; None where it is not known
    low: float | None
    high: float | None
    samples: int  # Number of samples; 0 where a function of the user's evaluates

    @property
    def decisive(self) -> float:
        """What must be within the bound.

        Shares are the estimates: they err either way. Output errors are too low more often than too
        high, as the largest are rare, so it is what they likely don't exceed.
        """
        return self.likely if self.kind == OUTPUT_ERROR else self.value


LossEstimator = Callable[[LightModel], EstimatedLoss]


def loss_estimator(analysis: Analysis, samples: Samples, settings: Settings) -> LossEstimator:
    """Make the function that tells how much worse a model is than the original.

    Raises
    ------
    TargetError
        If there are too few samples to show that the loss is within the bound.
    ReapError
        If there are none, or labels or the function can't be used.
    """
    if settings.evaluate is not None:
        return _by_function(analysis, settings.evaluate)
    labels = None if settings.labels is None else read_labels(settings.labels, samples.every)
    provable = _provable_by(analysis, settings)
    bound = 1.0 if settings.max_drop is None else settings.max_drop
    fewest = bisect_left(
        range(2**40), True, key=lambda n: provable(max(round(DECIDING * n), 1)) <= bound
    )
    held_out = held_out_for("--max-drop", samples, max(fewest, FEWEST_TO_SPLIT))
    if (least := provable(len(held_out))) > bound:
        raise TargetError(
            "--max-drop: too few samples to show so small a loss",
            got=f"{len(held_out)} samples held out, which show {least:.2%} at best",
            expected=f"at most {bound:.2%}, which takes {fewest:,} samples in all",
            hint="bring more data, allow more, or name a budget such as --target-macs alone",
        )
    if labels is not None:
        return _by_labels(analysis, held_out, labels)
    if outputs := class_outputs(analysis, settings.metric):
        return _by_first_choices(analysis, held_out, samples.fit, outputs)
    return _by_output_error(analysis, held_out)


def least_provable_loss(analysis: Analysis, samples: Samples, settings: Settings) -> float:
    """Return the loss that is likely not exceeded where no held-out sample shows any."""
    if settings.evaluate is not None:
        return 0.0
    if samples.held_out is None:
        return math.inf
    return _provable_by(analysis, settings)(len(samples.held_out))


def _provable_by(analysis: Analysis, settings: Settings) -> Callable[[int], float]:
    """Make the function that tells what so many samples show at best."""
    if settings.labels is not None:
        return lambda n: agresti_min(0, 0, n, LIKELY)[1]
    if class_outputs(analysis, settings.metric):
        return lambda n: wilson(0, n, LIKELY)[1]
    return lambda n: 0.0


def held_out_for(flag: str, samples: Samples, fewest: int = FEWEST_TO_SPLIT) -> Calibration:
    """Return the samples that are held out, which a flag needs, of at least so many in all.

    Raises
    ------
    ReapError
        If there are none.
    """
    if samples.held_out is None:
        raise ReapError(
            f"{flag}: no samples are held out to evaluate the result on",
            got=samples.every.origin,
            expected=f"{fewest:,} samples or more",
            hint="give more --data",
        )
    return samples.held_out


def _by_first_choices(
    analysis: Analysis, held_out: Calibration, fit: Calibration | None, outputs: Sequence[str]
) -> LossEstimator:
    n, before = len(held_out), class_scores(analysis, held_out, analysis.light, outputs)
    known = before
    if fit is not None:
        fitted = class_scores(analysis, fit, analysis.light, outputs)
        known = {name: np.concatenate([x, fitted[name]]) for name, x in before.items()}

    def estimate(model: LightModel) -> EstimatedLoss:
        after = class_scores(analysis, held_out, model, outputs)
        # Of several outputs, the one that changes most.
        share, error = max(
            changed_share(scores, after[name], known[name]) for name, scores in before.items()
        )
        worth = share * (1 - share) / error**2 if error > 0 and share < 1 else n  # counted samples
        likely = wilson(share, worth, LIKELY)[1]
        return EstimatedLoss("top-1 disagreement", share, likely, *wilson(share, worth), n)

    return estimate


def _by_output_error(analysis: Analysis, held_out: Calibration) -> LossEstimator:
    terms_of = error_terms(analysis, held_out)

    def estimate(model: LightModel) -> EstimatedLoss:
        terms = terms_of(model)
        if not terms:
            raise ReapError(
                "--max-drop: no output tells what is lost",
                got=", ".join(output.name for output in model.graph.output),
                expected="an output of real numbers, of the same shape for both models",
                hint="measure it by --evaluate module:function, or name a budget such as "
                "--target-macs",
            )
        return max((_output_error(*each) for each in terms.values()), key=lambda e: e.decisive)

    return estimate


def _output_error(errors: np.ndarray, deviations: np.ndarray) -> EstimatedLoss:
    n, total = len(errors), float(deviations.sum())
    if total == 0 or n == 1:  # nothing but zeros, or one result for all samples
        value = float(errors.sum()) / (total or 1.0)
        return EstimatedLoss(OUTPUT_ERROR, value, value, None, None, n)
    interval = ratio_interval(errors, deviations)
    likely = ratio_interval(errors, deviations, LIKELY)[1]
    return EstimatedLoss(OUTPUT_ERROR, float(errors.sum()) / total, likely, *interval, n)


def _by_labels(analysis: Analysis, held_out: Calibration, labels: np.ndarray) -> LossEstimator:
    correct = correct_on(analysis, held_out, labels)
    before, n = correct(analysis.light), len(held_out)

    def estimate(model: LightModel) -> EstimatedLoss:
        after = correct(model)
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        likely = agresti_min(lost, gained, n, LIKELY)[1]
        interval = agresti_min(lost, gained, n)
        return EstimatedLoss("accuracy", (lost - gained) / n, likely, *interval, n)

    return estimate


def _by_function(analysis: Analysis, evaluate: str | Evaluate) -> LossEstimator:
    function = find_function(evaluate) if isinstance(evaluate, str) else evaluate
    before = _evaluated(function, analysis.light)
    if before <= 0:
        raise ReapError(
            "--evaluate: the original's value is no measure of quality",
            got=f"{before:g}",
            expected="more than 0, and more for better models",
        )

    def estimate(model: LightModel) -> EstimatedLoss:
        value = 1 - _evaluated(function, model) / before
        return EstimatedLoss("evaluate", value, value, None, None, 0)

    return estimate


def _evaluated(function: Evaluate, model: LightModel) -> float:
    try:
        value = float(function(model.whole(copy=True)))  # which it may change
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
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
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
        sys.path.remove(folder)
    if not callable(found):
        raise ReapError("--evaluate: not a function", got=name, expected="module:function")
    result: Evaluate = found
    return result
