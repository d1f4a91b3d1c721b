"""Refit of a recurrent layer: least squares for its gates, from what its steps read.

The gates of every step are linear maps of the input and of the state before it, see
`onnx_reap.graph.ir.recurrent`, and are to be those of the original. The state is the layer's own
doing. In the first round it is the original's, of the units that stay; in the next one, what the
layer makes of it with its new weights, so that the weights also make up for how the states drift.
A layer keeps what brings its states, when it runs by itself, nearer to the original's.

References
----------
A. Venkatraman, M. Hebert, J. A. Bagnell, "Improving Multi-Step Prediction of Learned Time Series
Models", AAAI 2015, fit a model of single steps to the states that it meets by itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.edit.weights import remember, set_recurrent
from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.graph.ir.recurrent import GateMap, hidden_axes, recurrence
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.gates import Gates
from onnx_reap.measure.activations.rows import finite, not_finite
from onnx_reap.measure.activations.steps import Steps, sampled_steps
from onnx_reap.prune.refit.layer import LayerRefit, Rows, Use, fit_layer
from onnx_reap.prune.refit.model_pair import ModelPair

ROUNDS = 2  # more bring less than a hundredth


@dataclass(frozen=True)
class StepProblem:
    """A recurrent layer, and steps of the original, of the units that stay."""

    linear: Linear
    maps: Sequence[GateMap]
    # (D, n, H) float32: the states in front of the steps, and behind them
    before: np.ndarray
    after: np.ndarray
    outputs: Sequence[np.ndarray]  # By map (D, n, outputs) float32: what it gives
    fit: int  # So many steps come first, see `Rows.fit`


def wanted_steps(
    pair: ModelPair,
    linear: Linear,
    tensors: Mapping[str, np.ndarray],
    limit: int,
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Sample states in front of and behind steps of the original, then what every map gives.

    The places of the steps come second, see `sampled_steps`.
    """
    key = linear.node
    layer, gates = recurrence(pair.original.node(key), key), Gates.of(pair.original, key)
    steps, places = sampled_steps(layer, tensors, limit, rng)
    axis, *_ = hidden_axes(key)
    _, units = pair.kept.get(axis, (0, np.arange(steps.after.shape[2])))
    outputs = [
        gates.outputs(part, steps.x, steps.before)[..., gates.places(part, units)]
        for part in layer.maps
    ]
    rows = (steps.before[..., units], steps.after[..., units], *outputs)
    return [finite(linear, x) for x in rows], places


def refit_recurrent(
    pair: ModelPair, problem: StepProblem, given: Steps, again: Callable[[], Steps]
) -> tuple[LayerRefit, bool]:
    """Refit a layer of a cut model in place.

    Parameters
    ----------
    given : Steps
        What the layer reads and gives in this model.
    again : callable
        Returns the same after a change of its weights.

    Returns
    -------
    refit : LayerRefit
        Errors are those of the states.
    written : bool
        False where new numbers were too large for the type that they are stored in.
    """
    model, key = pair.pruned, problem.linear.node
    start, first = Gates.of(model, key), _errors(problem, given.after)
    if not math.isfinite(first[0]):
        raise not_finite(problem.linear)
    best, damping, state = first, math.inf, problem.before
    for _ in range(ROUNDS):
        undo = remember(model)
        new, strength = _fitted(problem, start, given.x, state, pair)
        if not set_recurrent(model, key, new.weight, new.recurrent, new.bias):
            return LayerRefit(key, damping, first[0], best[0]), math.isfinite(damping)
        given = again()
        now = _errors(problem, given.after)
        if not (now[0] < best[0] and now[1] < best[1]):
            undo()
            break
        best, damping, state = now, strength, given.before
    return LayerRefit(key, damping, first[0], best[0]), True


def _fitted(
    problem: StepProblem,
    start: Gates,
    x: np.ndarray,
    state: np.ndarray,
    pair: ModelPair,
) -> tuple[Gates, float]:
    """Fit every map, and return also the weakest damping; it draws towards the weights given."""
    stored = pair.pruned.node(problem.linear.node).inputs[1].dtype
    new, dampings = start, []
    for part, wanted in zip(problem.maps, problem.outputs, strict=True):
        matrix, offset = start.matrix(part), start.offset(part)
        rows = Rows(new.columns(part, x, state), wanted, None, problem.fit)
        plain = Epilogue(np.ones(offset.size), np.zeros(offset.size), problem.linear.y)
        use = Use(rows, offset, plain)
        found = fit_layer([use], matrix, pair.run.backend, stored, on_all=pair.on_all)
        new = new.replaced(part, found.weight, found.biases[0])
        dampings.append(found.damping)
    return new, min(dampings)


@np.errstate(over="ignore", invalid="ignore")  # a state that grows without bound is none to keep
def _errors(problem: StepProblem, after: np.ndarray) -> tuple[float, float]:
    """Return squared errors of states, relative to their variance: of all steps, and held out."""
    wanted, fit = problem.after, problem.fit
    away = np.square(wanted - wanted.mean(axis=1, keepdims=True), dtype=np.float64)
    miss = np.square(after - wanted, dtype=np.float64)
    scale = away.sum() or 1.0
    held_out = slice(fit, None) if 0 < fit < wanted.shape[1] else slice(None)
    return float(miss.sum() / scale), float(miss[:, held_out].sum() / scale)
