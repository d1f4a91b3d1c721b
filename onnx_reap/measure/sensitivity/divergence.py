"""How far a change of a model's outputs takes it from the original, to second order.

Class scores are compared by the Kullback-Leibler divergence of the distributions that they stand
for, anything else by its output error: squared, relative to what the original output varies by over
samples, see `onnx_reap.measure.variation`. Both are quadratic forms in a small change d of an
output,

    1/2 d^T (diag(p) - p p^T) d    and    d^T d / variation,

and a form d^T F d is the mean of (v^T d)^2 over random directions v with E[v v^T] = F: with random
signs r, v = diag(p)^1/2 r - p (p^1/2)^T r has diag(p) - p p^T. One backward pass from v then gives
the divergence for any change of any layer, instead of a forward pass for each.

Where the original is sure of a class, p p^T is all but diag(p) and the divergence seems to vanish,
though removing channels is no small change. So the distributions are those of scores divided by a
temperature.

Entries that the original has not finite, such as masked classes, don't count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.graph.uses import counted_tensors
from onnx_reap.measure.autodiff.tape import Tape, Value
from onnx_reap.onnxio.dtypes import is_float

TEMPERATURE = 4.0  # of the distributions, see docs/experiments.md
TINY = 1e-12  # of a probability


@dataclass(frozen=True)
class Metric:
    """How one output is compared."""

    output: str
    kind: str  # `logits`, `probabilities` or `values`
    axis: int = -1  # Of the classes

    def direction(self, tape: Tape, signs: str) -> str:
        """Write a random direction: its product with a change, squared, averages the divergence.

        Parameters
        ----------
        signs : str
            Tensor of independent random signs, of the output's shape.

        Returns
        -------
        str
            Tensor of the output's shape. For class scores the mean is the divergence summed over
            distributions; for values the squared error, still to be divided by the variation.
        """
        y, r = tape.value(self.output), tape.value(signs)
        if self.kind == "values":
            return (r * (y.op("Abs") < math.inf).floats()).name
        swap = self._swap(len(y.shape))
        x, r = y.transpose(swap), r.transpose(swap)
        if self.kind == "probabilities":
            chances = x.op("Max", tape.floats(TINY))
            x = chances.op("Log")
        p = (x / TEMPERATURE).op("Softmax", axis=-1)
        spread = p.op("Sqrt") * r
        found = spread - p * spread.sum([len(swap) - 1], keep=True)
        if self.kind == "probabilities":
            found = found / chances
        return (found * math.sqrt(0.5)).transpose(swap).name

    def _swap(self, rank: int) -> list[int]:
        """Return the order of axes that exchanges that of the classes with the last one."""
        swap = list(range(rank))
        swap[self.axis], swap[-1] = swap[-1], swap[self.axis]
        return swap

    @property
    def has_classes(self) -> bool:
        """Whether the output holds scores of classes."""
        return self.kind != "values"

    def distance(self, y: Value, wanted: Value) -> Value:
        """Write the mean Kullback-Leibler divergence from wanted distributions, of classes."""
        swap = self._swap(len(y.shape))
        x, w = y.transpose(swap), wanted.transpose(swap)
        if self.kind == "probabilities":
            tiny = y.tape.floats(TINY)
            logs, wished = (each.op("Max", tiny).op("Log") for each in (x, w))
        else:
            logs, wished = (each.op("LogSoftmax", axis=-1) for each in (x, w))
        each = (wished.exp() * (wished - logs)).sum([len(swap) - 1], keep=False)
        return each.op("ReduceSum", keepdims=0) / each.op("Size").floats()

    def divergence(self, y: np.ndarray, change: np.ndarray) -> float:
        """Return the divergence of a change: what the squares of directions average to.

        Parameters
        ----------
        y, change : arrays of one shape
            The original output, and what is added to it.
        """
        finite = np.isfinite(y)
        y, d = (np.where(finite, x, 0).astype(np.float64) for x in (y, change))
        if self.kind == "values":
            return float(np.square(d).sum())
        if self.kind == "probabilities":
            chances = np.maximum(y, TINY)
            y, d = np.log(chances), d / chances
        scores = np.where(finite, y, -np.inf) / TEMPERATURE
        p = np.exp(scores - scores.max(axis=self.axis, keepdims=True))
        p /= p.sum(axis=self.axis, keepdims=True)
        mean = (p * d).sum(axis=self.axis, keepdims=True)
        return float(0.5 * (p * np.square(d - mean)).sum())


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
        has no axis of classes is compared by its values in any case. Outputs that have as many
        entries as values say are not compared.
    """
    found, counted = [], counted_tensors(model)
    for tensor in model.graph.outputs:
        dtype, shape = dtypes.get(tensor.name), shapes.get(tensor.name, ())
        if dtype is None or not is_float(dtype) or not tensor.inputs or tensor.name in counted:
            continue
        maker = _maker(tensor)
        if wish == "error" or not _has_classes(shape) or maker.op == "Sigmoid":
            found.append(Metric(tensor.name, "values"))
        elif maker.op == "Softmax":
            same_axes = shapes.get(maker.outputs[0].name) == shape
            axis = maker.attrs.get("axis", -1 if model.opset >= 13 else 1) if same_axes else 1
            found.append(Metric(tensor.name, "probabilities", axis % len(shape)))
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
    while Trait.SAME_ORDER in traits_of(maker.op) and maker.inputs and maker.inputs[0].inputs:
        maker = maker.inputs[0].inputs[0]
    return maker
