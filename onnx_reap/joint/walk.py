"""Stretch by stretch, fit what the pruned model gives to what the original gave.

A refit of one layer at a time leaves the layer before it as it was. Here the layers of a block move
together, by gradient, towards the same target: the original's activations behind the block, from
what the pruned model feeds into it. No label and no loss of the whole network is involved.

References
----------
Y. Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR
2021, reconstruct blocks in this way after quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.capture.frontier import Frontier
from onnx_reap.capture.stream import Move, Stream
from onnx_reap.data import Calibration
from onnx_reap.gradient.backward import Facts, reached, with_gradients
from onnx_reap.graph.model import Model
from onnx_reap.graph.probe import Probe
from onnx_reap.graph.records import Linear
from onnx_reap.graph.weights import layer_weights, set_layer
from onnx_reap.joint.stretches import Stretch, stretches
from onnx_reap.joint.training import Lesson, Training
from onnx_reap.runtime import run, session

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Course:
    """What a joint refit works with.

    Attributes
    ----------
    kept : mapping of str to (int, array)
        Axis and positions that stay, for tensors that were cut.
    learn : int
        So many samples come first and teach; the others judge.
    batch : int
        Samples per step; `pad` where the model insists on it.
    passes : int
        Over the samples that teach.
    """

    kept: Mapping[str, tuple[int, np.ndarray]]
    probe: Probe
    calibration: Calibration
    learn: int
    batch: int
    pad: bool
    providers: Sequence[str]
    passes: int
    seed: int


@dataclass(frozen=True)
class Stretched:
    """What became of a stretch.

    Attributes
    ----------
    nodes : tuple of str
        Layers that were free to move.
    error_before, error_after : float
        Squared error behind the stretch, relative to the variance there, on samples that judge;
        equal where moving would not have helped, and nothing was changed.
    """

    nodes: tuple[str, ...]
    error_before: float
    error_after: float


def refit_together(
    original: Model,
    pruned: Model,
    layers: Sequence[Linear],
    course: Course,
    on_node: Callable[[int], None],
) -> list[Stretched]:
    """Refit a cut model in place.

    Parameters
    ----------
    original : Model
        With constants folded as in `pruned`, so that tensors have the same names.
    layers : sequence of Linear
        As they are after the cut, those that may change; their constants are their own.
    on_node : callable
        Told how many nodes are done.
    """
    for layer in layers:
        _give_bias(pruned, layer)
    frontier = Frontier(pruned, course.probe, len(course.calibration))
    place = {pruned.keys[id(node)]: i for i, node in enumerate(pruned.nodes)}
    places = sorted(place[layer.node] for layer in layers)
    facts = Facts(_shapes(pruned, course.probe), {layer.y: layer for layer in layers})
    done = []
    with _stream(course) as before, _stream(course) as after:
        for stretch in list(stretches(frontier, places, len(place))):
            nodes = range(stretch.first, stretch.end)
            inside = [layer for layer in layers if place[layer.node] in nodes]
            before.advance(original, _with_branches(original, pruned, stretch, course))
            wanted = [
                _as_cut({name: batch[name] for name in stretch.after.tensors}, course)
                for batch in before.held()
            ]
            found = _fit(pruned, inside, list(after.held()), wanted, facts, course)
            done += [] if found is None else [found]
            after.advance(pruned, stretch.after)
            on_node(len(nodes))
    return done


def _stream(course: Course) -> Stream:
    return Stream(course.calibration, course.batch, course.pad, course.providers)


def _with_branches(original: Model, pruned: Model, stretch: Stretch, course: Course) -> Move:
    """Hold in the original also what branches read that are no longer in the pruned model."""
    place = {original.keys[id(node)]: i for i, node in enumerate(original.nodes)}
    behind = (place.get(pruned.keys[id(node)]) for node in pruned.nodes[stretch.end :])
    first = next((spot for spot in behind if spot is not None), len(place))
    whole = Frontier(original, course.probe, len(course.calibration)).at(first)
    tensors = dict.fromkeys([*stretch.after.tensors, *(whole.tensors if whole else ())])
    return Move(list(tensors), max(stretch.after.size, whole.size if whole else 0))


def _give_bias(pruned: Model, layer: Linear) -> None:
    """Give a layer a bias if it has none; what is added behind a MatMul stays as it is."""
    if layer.op != "MatMul" and layer.bias is None:
        weight, bias = layer_weights(pruned, layer)
        set_layer(pruned, layer, weight, np.broadcast_to(bias, weight.shape[layer.weight_out]))


def _as_cut(batch: Batch, course: Course) -> dict[str, np.ndarray]:
    """Take the channels that are left."""
    return {
        name: np.take(x, course.kept[name][1], course.kept[name][0]) if name in course.kept else x
        for name, x in batch.items()
    }


def _shapes(pruned: Model, probe: Probe) -> dict[str, tuple[int, ...]]:
    """Return known shapes, with those in front of biases that a refit added behind MatMuls."""
    shapes = dict(probe.shapes)
    for node in pruned.nodes:
        raw = node.outputs[0].name
        if node.op == "MatMul" and raw not in shapes and node.outputs[0].outputs:
            shapes[raw] = shapes[node.outputs[0].outputs[0].outputs[0].name]
    return shapes


def _fit(
    pruned: Model,
    layers: Sequence[Linear],
    given: Sequence[Batch],
    wanted: Sequence[Batch],
    facts: Facts,
    course: Course,
) -> Stretched | None:
    """Refit the layers of one stretch; None if nothing there can move or has to."""
    goals = [
        name for name, x in wanted[0].items() if name not in given[0] and x.dtype == np.float32
    ]
    constants = {t.name: t for layer in layers for t in pruned.node(layer.node).inputs[1:3]}
    values = {name: constant.values for name, constant in constants.items()}
    if not goals or not values:
        return None
    fed = {name: array.dtype for name, array in {**given[0], **values}.items()}
    part = pruned.part(fed, goals)
    free = sorted(reached(part, facts, [n for n, x in values.items() if x.dtype == np.float32]))
    if not free:
        return None
    goals_only = [{name: batch[name] for name in goals} for batch in wanted]
    trainer = with_gradients(part, facts, _weights(goals_only), free)
    teaching = -(-course.learn // course.batch)
    lesson = Lesson(given, goals_only, teaching, course.passes)
    fixed = {name: array for name, array in values.items() if name not in free}
    training = Training(trainer, fixed, lesson, course.providers)
    start = {name: values[name] for name in free}
    nodes = tuple(layer.node for layer in layers if pruned.node(layer.node).inputs[1].name in free)
    scales = _scales(pruned, layers, given[0], course)
    found, before, after = training.improve(start, scales, np.random.default_rng(course.seed))
    for name in free:
        constants[name].values = found[name]
    return Stretched(nodes, before, after)


def _weights(wanted: Sequence[Batch]) -> dict[str, float]:
    """Weight squared errors so that a batch's mean is relative to the variance."""
    weights = {}
    for name in wanted[0]:
        entries = [batch[name] for batch in wanted]
        variance = float(np.mean([np.var(x, dtype=np.float64) for x in entries]))
        weights[name] = 1 / (max(variance, np.finfo(np.float32).tiny) * entries[0].size)
    return weights


def _scales(
    pruned: Model, layers: Sequence[Linear], given: Batch, course: Course
) -> dict[str, float]:
    """Return what a unit step is: the size of a weight, and for biases that of the results."""
    outputs = [pruned.node(layer.node).outputs[0].name for layer in layers]
    part = pruned.part({name: x.dtype for name, x in given.items()}, outputs)
    active = session(part, course.providers)
    fed = [value.name for value in active.get_inputs()]
    results = run(active, outputs, {name: given[name] for name in fed})
    scales = {}
    for layer, output in zip(layers, outputs, strict=True):
        weight, *bias = pruned.node(layer.node).inputs[1:3]
        scales[weight.name] = _size(weight.values)
        scales |= {constant.name: _size(results[output]) for constant in bias}
    return scales


def _size(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
