"""Layers that may have zeros in a pattern: who, in what layout, and what each weight is worth.

A weight's score is what its absence adds to the squared error of the layer's output if the inputs
were uncorrelated, w^2 var(x), as a fraction of the output's variance: the diagonal of Optimal Brain
Surgeon, and the square of Wanda's score [1]_. Without data inputs count alike. By these fractions
nearly all tiles would go from the layers with most weights, where each is worth least, and with
fractions of the layer's own scores each layer would lose as many; scores are the geometric mean of
the two.

References
----------
.. [1] M. Sun, Z. Liu, A. Bair, J. Z. Kolter, "A Simple and Effective Pruning Approach for Large
       Language Models", ICLR 2024.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.labels.labels import LabelArray
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.solve.patterns import Pattern, Scores

EXCLUDED = "excluded by --exclude or --include"


@dataclass(frozen=True)
class Layer:
    """A layer with what flows in and out of it."""

    linear: Linear
    # (g * C,) and (g * O,): units at its inputs and outputs, 0 where these must stay where they are
    x_units: LabelArray
    y_units: LabelArray


def find_layers(
    model: Model, flow: Flow, pattern: Pattern, reason_to_keep: Callable[[str], str | None]
) -> tuple[dict[str, Layer], dict[str, str]]:
    """Divide the linear layers.

    Parameters
    ----------
    reason_to_keep : callable
        Tells why the user doesn't want a node touched, None if nothing speaks against.

    Returns
    -------
    layers : dict of str to Layer
        By node, those that take the pattern.
    dense : dict of str to str
        By node, why the others stay dense.
    """
    users = Counter(tensor.name for node in model.nodes for tensor in node.inputs)
    layers, dense = {}, {}
    constants = model.constants()
    elsewhere = captured_tensors(model.nodes).keys() | {t.name for t in model.graph.outputs}
    for linear in flow.linears:
        x_units = flow.units_along(linear.x, linear.x_axis)
        if reason_to_keep(linear.node):
            why: str | None = EXCLUDED
        elif linear.depthwise:
            why = "depthwise: each output reads one channel"
        elif linear.recurrent:
            why = "recurrent"
        elif users[linear.weight] > 1:
            why = "other layers share its weights"
        elif linear.weight in elsewhere:
            why = "its weight is an output, or used in the body of another node"
        else:
            why = pattern.refuses(len(x_units) // linear.group)
        y_units = flow.units_along(linear.y, linear.y_axis)
        size = len(x_units) * len(y_units) * linear.taps // linear.group
        if why is None and np.prod(constants[linear.weight].shape) != size:
            why = "its weight is no matrix of inputs and outputs"
        if why is not None:
            dense[linear.node] = why
            continue
        layers[linear.node] = Layer(linear, x_units, y_units)
    return layers, dense


def to_grid(linear: Linear, matrix: np.ndarray) -> np.ndarray:
    """View (g, C * T, O) as (g, T, C, O)."""
    g, columns, outputs = matrix.shape
    return matrix.reshape(g, columns // linear.taps, linear.taps, outputs).swapaxes(1, 2)


def from_grid(grid: np.ndarray) -> np.ndarray:
    """Undo `to_grid`."""
    g, taps, channels, outputs = grid.shape
    return grid.swapaxes(1, 2).reshape(g, channels * taps, outputs)


def weight_matrix(model: Model, linear: Linear) -> np.ndarray:
    """Return a layer's weight as (g, D, O) float64."""
    return weight_to_matrix(linear, model.node(linear.node).inputs[1].values)


def score(
    linear: Linear, matrix: np.ndarray, variance: np.ndarray | None, energy: float | None
) -> Scores:
    """Return the score of every weight.

    Parameters
    ----------
    matrix : (g, D, O) float64 array
        The weight.
    variance : (g, D) float64 array, optional
        Of the inputs; they count alike without it.
    energy : float, optional
        Variance of the outputs, summed over them; that of uncorrelated inputs without it.

    Returns
    -------
    (g, T, C, O) float64 array
    """
    scores = matrix**2 if variance is None else matrix**2 * variance[..., None]
    total = float(scores.sum()) if energy is None else energy
    scores = scores / total if total > 0 else scores
    level = float(scores.mean())
    return to_grid(linear, scores / level**0.5 if level > 0 else scores)


def moved(grid: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Put inputs (g * C,) and outputs (g * O,) of a (g, T, C, O) array in another order.

    Channels stay in their map.
    """
    g, _, channels, outputs = grid.shape
    columns, rows = (x.reshape(g, -1) for x in (columns, rows))
    maps = [
        part[:, c - i * channels][:, :, r - i * outputs]
        for i, (part, c, r) in enumerate(zip(grid, columns, rows, strict=True))
    ]
    return np.stack(maps)
