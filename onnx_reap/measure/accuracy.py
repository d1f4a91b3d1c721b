"""Class scores of a model on samples, and which samples it classifies correctly."""

from collections.abc import Callable, Sequence

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import run_batches
from onnx_reap.measure.sensitivity.divergence import metrics
from onnx_reap.onnxio.light_model import LightModel

BATCH = 16
"""Samples per run, where the model leaves the choice."""


def class_outputs(analysis: Analysis, metric: str) -> list[str]:
    """List the outputs that hold a vector of class scores per sample, given `Settings.metric`."""
    probe, batch = analysis.probe, analysis.fixed_batch or analysis.probe.batch
    kinds = metrics(analysis.model, probe.shapes, probe.dtypes, metric)
    shapes = {kind.output: probe.shapes[kind.output] for kind in kinds if kind.kind != "values"}
    return [n for n, shape in shapes.items() if shape[0] == batch and np.prod(shape[2:]) == 1]


def outputs_on(
    analysis: Analysis, samples: Calibration, model: LightModel, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Run a model on all samples; return the named outputs, samples along the first axis."""
    runs = run_batches(
        analysis, [analysis.runnable(model)], samples, batch=analysis.fixed_batch or BATCH
    )
    found = [[outputs[name] for name in names] for _, (outputs,) in runs]
    joined = map(np.concatenate, zip(*found, strict=True))
    return {name: x[: len(samples)] for name, x in zip(names, joined, strict=True)}


def class_scores(
    analysis: Analysis, samples: Calibration, model: LightModel, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Run a model; return by name the class scores of some outputs, (samples, classes)."""
    scores = outputs_on(analysis, samples, model, names) if names else {}
    return {name: x.reshape(len(x), -1) for name, x in scores.items()}


def correct_on(
    analysis: Analysis, samples: Calibration, labels: np.ndarray
) -> Callable[[LightModel], np.ndarray]:
    """Make the function that tells which samples a model puts into their class.

    Parameters
    ----------
    labels : (samples of the source,) int array

    Raises
    ------
    ReapError
        If labels lie outside the model's classes.
    """
    wanted = labels[samples.indices]
    classes = _class_count(analysis)
    if classes is not None and not 0 <= labels.min() <= labels.max() < classes:
        raise ReapError(
            "--labels: not the model's classes",
            got=f"{labels.min()} to {labels.max()}",
            expected=f"0 to {classes - 1}",
        )
    return lambda model: _predicted(analysis, samples, model) == wanted


def _class_count(analysis: Analysis) -> int | None:
    """Return the length of the model's first output, if it is known."""
    shape = analysis.probe.shapes.get(analysis.model.graph.outputs[0].name, ())
    return int(np.prod(shape[1:])) if len(shape) > 1 else None


def _predicted(analysis: Analysis, samples: Calibration, model: LightModel) -> np.ndarray:
    """Return the predicted class of every sample, (samples,)."""
    name = model.graph.output[0].name
    scores = outputs_on(analysis, samples, model, [name])[name]
    one_each = len(scores) == len(samples)
    if not one_each or scores.ndim < 2 or scores.size != len(scores) * scores.shape[1]:
        raise ReapError(
            "--labels: the model is no classifier",
            got=f"first output {name}, {scores.shape} for {len(samples)} samples",
            expected="a vector of class scores per sample",
            hint="measure quality by --evaluate module:function",
        )
    return np.asarray(scores.reshape(len(scores), -1).argmax(1))
