"""Measure perturbations where no gradient passes: run each changed model, beside the original.

How far its outputs are from the original's is the quadratic form of `divergence`, of the change
that they really make. That takes a forward pass for each, so samples are few where models are large
or perturbations many.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.measure.autodiff.tape import PREFIX, Tape
from onnx_reap.measure.runner import run_batches
from onnx_reap.measure.sensitivity.measure import Evaluation, change_of_output, output_weights
from onnx_reap.measure.sensitivity.perturbation import Perturbation, WeightChange
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.solve.chunks import in_chunks

ARITHMETIC = 1e11  # multiply-accumulates of all runs, past which there are fewer samples
FEWEST = 8  # samples that are worth a measurement
TOGETHER = 4  # models that are held at a time


def measure_by_running(
    evaluation: Evaluation, perturbations: Sequence[Perturbation]
) -> list[float | None]:
    """Measure how far every perturbation moves the outputs, as `measure_sensitivities` does.

    Returns
    -------
    list of float or None
        None where that would take too long, or where the divergence is not finite.
    """
    analysis = evaluation.analysis
    each = analysis.macs.at(analysis.full_widths) * max(len(perturbations), 1)
    most = int(min(ARITHMETIC / max(each, 1), len(evaluation.samples)))
    if most < min(FEWEST, len(evaluation.samples)):
        return [None] * len(perturbations)
    evaluation = replace(evaluation, samples=evaluation.samples.take(most, evaluation.seed))
    found: list[float] = []
    for chunk in in_chunks(perturbations, lambda _: 1, TOGETHER):
        found += _divergences(evaluation, [_changed(evaluation, each) for each in chunk])
    return [each if np.isfinite(each) else None for each in found]


@np.errstate(over="ignore", invalid="ignore")
def _divergences(evaluation: Evaluation, models: Sequence[LightModel]) -> list[float]:
    totals = np.zeros(len(models))
    weights = output_weights(evaluation)
    runs = run_batches(
        evaluation.analysis,
        [evaluation.part, *models],
        evaluation.samples,
        batch=evaluation.batch,
    )
    for _, (original, *others) in runs:
        for metric in evaluation.metrics:
            y, weight = original[metric.output], weights[metric.output] ** 2
            totals += [weight * metric.divergence(y, other[metric.output] - y) for other in others]
    return [float(total) for total in totals]


def _changed(evaluation: Evaluation, perturbation: Perturbation) -> LightModel:
    """Write the model with the changes of a perturbation."""
    out = onnx.ModelProto()
    out.CopyFrom(evaluation.part.proto)
    part = replace(evaluation.part, proto=out)
    tape = Tape(part, evaluation.facts.shapes, evaluation.facts.layers)
    for change in perturbation.changes():
        if change.linear.recurrent:
            _change_recurrent(part, change)
        else:
            _add_change(tape, out.graph, change)
    return part


def _add_change(tape: Tape, graph: onnx.GraphProto, change: WeightChange) -> None:
    """Add to a layer's output what its changes of weights make of its input."""
    place = next(i for i, node in enumerate(graph.node) if change.linear.y in node.output)
    head, tail = list(graph.node)[: place + 1], list(graph.node)[place + 1 :]
    del graph.node[:]
    first = f"{PREFIX}{change.linear.y}"
    difference = change_of_output(tape, head[-1], change)
    tape.value(first).op("Add", difference)
    made = list(graph.node)
    made[-1].output[0], head[-1].output[0] = change.linear.y, first
    del graph.node[:]
    graph.node.extend([*head, *made, *tail])


def _change_recurrent(part: LightModel, change: WeightChange) -> None:
    """Replace a recurrent layer's weight of its input, and the bias that goes with it."""
    linear, graph = change.linear, part.graph
    node = next(node for node in graph.node if [*node.input[:2]] == [linear.x, linear.weight])
    weight = part.constants[linear.weight] + change.weight
    new = [weight]
    if change.bias is not None:
        bias = np.zeros((len(weight), 2 * weight.shape[1]), np.float32)
        if len(node.input) > 3 and node.input[3]:
            bias = part.constants[node.input[3]].copy()
        bias[:, : weight.shape[1]] += change.bias.reshape(weight.shape[:2])
        new.append(bias)
        node.input.extend([""] * (4 - len(node.input)))
    for place, values in zip((1, 3), new, strict=False):
        name = f"{PREFIX}{linear.y}/{place}"
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        node.input[place] = name
