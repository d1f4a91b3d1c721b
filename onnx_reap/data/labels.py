"""Labels of samples, and which samples a model puts into their class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.measure.scores import outputs_on
from onnx_reap.prune.context import Run as Work


def read_labels(labels: Any, samples: Calibration) -> np.ndarray:
    """Return the class of every sample, (samples of the source,) int array.

    Parameters
    ----------
    labels : path of .npy, or of .npz with one array or one that is called `labels`; or array_like

    Raises
    ------
    ReapError
        If they can't be read, or are not one whole number per sample.
    """
    try:
        values = np.load(labels) if isinstance(labels, (str, Path)) else np.asarray(labels)
        if isinstance(values, np.lib.npyio.NpzFile):
            values = values["labels" if "labels" in values.files else values.files[0]]
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile) as error:
        raise ReapError(
            f"--labels {labels}: can't be read",
            got=str(error),
            expected=".npy, or .npz with an array `labels`",
        ) from error
    values = values.squeeze() if values.size > 1 else values.ravel()
    if values.shape != (samples.total,) or values.dtype.kind not in "iu":
        raise ReapError(
            "--labels: not one class per sample",
            got=f"{values.dtype} {values.shape}",
            expected=f"{samples.total:,} whole numbers, in the order of --data",
        )
    return values


def hits(
    work: Work, samples: Calibration, labels: np.ndarray
) -> Callable[[onnx.ModelProto], np.ndarray]:
    """Make the function that tells which samples a model puts into their class.

    Parameters
    ----------
    labels : (samples of the source,) int array

    Returns
    -------
    callable
        From a model to a (samples,) bool array; it raises ReapError if the model is no classifier.
    """
    wanted = labels[samples.indices]
    classes = _classes(work)
    if classes is not None and not 0 <= labels.min() <= labels.max() < classes:
        raise ReapError(
            "--labels: not the model's classes",
            got=f"{labels.min()} to {labels.max()}",
            expected=f"0 to {classes - 1}",
        )
    return lambda model: _first_choices(work, samples, model) == wanted


def _classes(work: Work) -> int | None:
    """Return the length of the model's first output, if it is known."""
    shape = work.analysis.probe.shapes.get(work.analysis.model.graph.outputs[0].name, ())
    return int(np.prod(shape[1:])) if len(shape) > 1 else None


def _first_choices(work: Work, samples: Calibration, model: onnx.ModelProto) -> np.ndarray:
    name = model.graph.output[0].name
    scores = outputs_on(work, samples, model, [name])[name]
    one_each = len(scores) == len(samples)
    if not one_each or scores.ndim < 2 or scores.size != len(scores) * scores.shape[1]:
        raise ReapError(
            "--labels: the model is no classifier",
            got=f"first output {name}, {scores.shape} for {len(samples)} samples",
            expected="a vector of class scores per sample",
            hint="measure quality by --evaluate module:function",
        )
    return np.asarray(scores.reshape(len(scores), -1).argmax(1))
