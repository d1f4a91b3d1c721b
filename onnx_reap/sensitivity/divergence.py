"""How far a model's outputs are from the original's: one number per output and batch.

Class scores are compared by the Kullback-Leibler divergence of the distributions that they stand
for, anything else by its squared error relative to the variance of the original output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.data.spec import is_float
from onnx_reap.graph.model import Model

TINY = 1e-12  # of a probability

Tensors = Mapping[str, npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Metric:
    """How one output is compared.

    Attributes
    ----------
    output : str
    kind : str
        `logits`, `probabilities` or `values`.
    axis : int
        Of the classes.
    """

    output: str
    kind: str
    axis: int = -1


def metrics(
    model: Model, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype], wish: str
) -> list[Metric]:
    """Choose a metric for every floating-point output.

    Parameters
    ----------
    wish : str
        `kl` or `error` for all outputs, or `auto`: an output that a Softmax makes holds
        probabilities, one with a vector per sample holds logits, and all others are values.
    """
    found = []
    for tensor in model.graph.outputs:
        if tensor.name not in shapes or not is_float(dtypes[tensor.name]):
            continue
        maker = tensor.inputs[0] if tensor.inputs else None
        shape = shapes[tensor.name]
        if wish == "error":
            found.append(Metric(tensor.name, "values"))
        elif maker is not None and maker.op == "Softmax":
            axis = maker.attrs.get("axis", -1 if model.opset >= 13 else 1)
            found.append(Metric(tensor.name, "probabilities", axis))
        elif wish == "kl" or _is_vector(shape):
            found.append(Metric(tensor.name, "logits", min(1, len(shape) - 1)))
        else:
            found.append(Metric(tensor.name, "values"))
    return found


def divergence(
    metrics: Sequence[Metric], original: Tensors, other: Tensors
) -> npt.NDArray[np.float64]:
    """Compare outputs over a batch.

    Returns
    -------
    (metrics, 2) array
        For each output what has to be summed over batches: a numerator and a denominator.
    """
    return np.array([_compare(m, original[m.output], other[m.output]) for m in metrics])


def _is_vector(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and shape[1] > 1 and all(size == 1 for size in shape[2:])


def _compare(metric: Metric, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric.kind == "values":
        return float(np.square(a - b).sum()), float(np.square(a - a.mean()).sum())
    if metric.kind == "logits":
        a, b = _log_softmax(a, metric.axis), _log_softmax(b, metric.axis)
    else:
        a, b = np.log(np.maximum(a, TINY)), np.log(np.maximum(b, TINY))
    total = float((np.exp(a) * (a - b)).sum())
    return total, a.size / a.shape[metric.axis]


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))
