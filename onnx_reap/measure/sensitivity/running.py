"""Measure perturbations where no gradient passes: run each changed model, beside the original.

How far its outputs are from the original's is the quadratic form of `divergence`, of the change
that they really make. That takes a forward pass for each, so samples are few where models are large
or perturbations many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.tape import PREFIX, Tape, opset
from onnx_reap.measure.runner import run_batches
from onnx_reap.measure.sensitivity.evaluation import Evaluation, output_weights
from onnx_reap.measure.sensitivity.measure import change_of_output
from onnx_reap.measure.sensitivity.perturbation import Perturbation, WeightChange
from onnx_reap.onnxio.bodies import first_result
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.solve.chunks import in_chunks

ARITHMETIC = 1e11  # multiply-accumulates of all runs, past which there are fewer samples
FEWEST = 8  # samples that are worth a measurement
TOGETHER = 4  # models that are held at a time
OLDEST = 7  # operator set from which additions broadcast


def measure_by_running(
    evaluation: Evaluation, perturbations: Sequence[Perturbation]
) -> list[float | None]:
    """Measure how far every perturbation moves the outputs, as `measure_sensitivities` does.

    Returns
    -------
    list of float or None
        None where that would take too long, where a layer leads to no output that is compared, or
        where the divergence is not finite.
    """
    result: list[float | None] = [None] * len(perturbations)
    tried = [i for i, each in enumerate(perturbations) if _can_be_written(evaluation, each)]
    analysis, samples = evaluation.analysis, evaluation.samples
    each = analysis.macs.at(analysis.full_widths) * max(len(tried), 1)
    most = int(min(ARITHMETIC / max(each, 1), len(samples)))
    if most < min(FEWEST, len(samples)):
        return result
    evaluation = replace(evaluation, samples=samples.take(most, evaluation.seed))
    weights = output_weights(evaluation)
    for chunk in in_chunks(tried, lambda _: 1, TOGETHER):
        models = [_changed(evaluation, perturbations[i]) for i in chunk]
        for i, found in zip(chunk, _divergences(evaluation, models, weights), strict=True):
            result[i] = found if np.isfinite(found) else None
    return result


def _can_be_written(evaluation: Evaluation, perturbation: Perturbation) -> bool:
    """Whether all layers that change lead to an output that is compared, in float32."""
    nodes = evaluation.part.graph.node
    made = {name for node in nodes for name in node.output} | {
        layer.y
        for layer in evaluation.facts.layers.values()
        if layer.recurrent and _result_of(evaluation, layer) in map(first_result, nodes)
    }
    dtypes = evaluation.analysis.probe.dtypes
    plain = all(dtypes[name] == np.float32 for name in perturbation.outputs)
    return plain and made.issuperset(perturbation.outputs) and opset(evaluation.part) >= OLDEST


def _result_of(evaluation: Evaluation, layer: Linear) -> str:
    """Return the first result of a layer's node."""
    return next(name for name, each in evaluation.facts.layers.items() if each == layer)


@np.errstate(over="ignore", invalid="ignore")
def _divergences(
    evaluation: Evaluation, models: Sequence[LightModel], weights: Mapping[str, float]
) -> list[float]:
    totals = np.zeros(len(models))
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
            _change_recurrent(part, change, _result_of(evaluation, change.linear))
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


def _change_recurrent(part: LightModel, change: WeightChange, result: str) -> None:
    """Replace a recurrent layer's weight of its input, and the bias that goes with it."""
    linear, graph = change.linear, part.graph
    node = next(node for node in graph.node if first_result(node) == result)
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
