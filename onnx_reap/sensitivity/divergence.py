"""How far a model's outputs are from the original's.

Class scores are compared by the Kullback-Leibler divergence of the distributions that they stand
for, anything else by its squared error relative to the variance of the original output. Entries
that the original has not finite, such as masked classes, don't count; nor does an output whose
shape depends on its content, where the shapes differ.

The divergence of p and q is sum(p log(p / q) - p + q), which rounding can't make negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_reap.data.spec import is_float
from onnx_reap.graph.model import Model

TINY = 1e-12  # of a probability

Tensors = Mapping[str, npt.NDArray[np.floating]]

_SAME_VALUES = {"Flatten", "Identity", "Reshape", "Squeeze"}


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

    def scale(self, original: Sequence[Tensors]) -> float:
        """Return what to divide summed distances by: distributions, or the summed variance."""
        arrays = [batch[self.output] for batch in original]
        if self.kind != "values":
            return float(max(sum(a.size / a.shape[self.axis] for a in arrays), 1))
        entries = np.concatenate([a[np.isfinite(a)].ravel() for a in arrays]).astype(np.float64)
        total = float(np.square(entries - entries.mean()).sum()) if entries.size else 0.0
        return total if total > 0 else 1.0

    def distance(self, original: Tensors, other: Tensors) -> float:
        """Return the summed distance over a batch, at least 0."""
        a, b = (batch[self.output].astype(np.float64) for batch in (original, other))
        if a.shape != b.shape:
            return 0.0
        if self.kind == "values":
            return float(np.square((a - b)[np.isfinite(a)]).sum())
        with np.errstate(divide="ignore"):
            logs = [
                _log_softmax(x, self.axis) if self.kind == "logits" else np.log(x) for x in (a, b)
            ]
        p, q = (np.exp(log) for log in logs)
        log_p, log_q = (np.maximum(log, np.log(TINY)) for log in logs)
        return max(float((p * (log_p - log_q) - p + q).sum()), 0.0)


def metrics(
    model: Model, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype], wish: str
) -> list[Metric]:
    """Choose a metric for every floating-point output that nodes compute.

    Parameters
    ----------
    shapes, dtypes : mappings
        Of the outputs, batch first.
    wish : str
        `kl` or `error` for all outputs, or `auto`: an output that a Softmax makes holds
        probabilities, one with a vector per sample holds logits, and all others are values. What
        has no axis of classes is compared by its values in any case.
    """
    found = []
    for tensor in model.graph.outputs:
        dtype, shape = dtypes.get(tensor.name), shapes.get(tensor.name, ())
        if dtype is None or not is_float(dtype) or not tensor.inputs:
            continue
        maker = _maker(tensor)
        if wish == "error" or not _has_classes(shape) or maker.op == "Sigmoid":
            found.append(Metric(tensor.name, "values"))
        elif maker.op == "Softmax":
            found.append(Metric(tensor.name, "probabilities", 1))
        elif wish == "kl" or all(size == 1 for size in shape[2:]):
            found.append(Metric(tensor.name, "logits", 1))
        else:
            found.append(Metric(tensor.name, "values"))
    return found


def _has_classes(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and shape[1] > 1


def _maker(tensor: gs.Tensor) -> gs.Node:
    """Return the node that computes a tensor's values, whatever its shape becomes."""
    maker = tensor.inputs[0]
    while maker.op in _SAME_VALUES and maker.inputs and maker.inputs[0].inputs:
        maker = maker.inputs[0].inputs[0]
    return maker


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))
