"""Measure sensitivities to all perturbations by one forward and one backward pass.

A perturbation changes some layers' constants, and so their outputs by what the layers compute with
the difference. Its product with the gradient of a random direction of the model's outputs is,
squared and on average, how far the outputs move, see `divergence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from onnx_reap.measure.autodiff.backward import SIZES, first_result, reached
from onnx_reap.measure.autodiff.older import WRITTEN_IN
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.measure.autodiff.tape import Tape, Value, attributes, opset
from onnx_reap.measure.sensitivity.backward_pass import BackwardPass
from onnx_reap.measure.sensitivity.evaluation import SAMPLES, Evaluation, output_weights
from onnx_reap.measure.sensitivity.perturbation import Perturbation, WeightChange
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.solve.chunks import in_chunks

LARGEST_CONSTANTS = 256 << 20
"""Bytes of changed weights in one model."""


def measure_sensitivities(
    evaluation: Evaluation,
    perturbations: Sequence[Perturbation],
    on_batch: Callable[[int], object] | None = None,
) -> list[float | None]:
    """Measure how far every perturbation moves the outputs from the original's.

    Returns
    -------
    list of float or None
        For each perturbation the divergence: mean over samples, sum over outputs. None where no
        gradient reaches its layers, or where it is not finite.
    """
    changed = dict.fromkeys(y for each in perturbations for y in each.outputs)
    known = evaluation.in_front_of_samples
    open_ = reached(evaluation.part, evaluation.facts, [y for y in changed if y in known])
    tried = [i for i, each in enumerate(perturbations) if open_.issuperset(each.outputs)]
    result: list[float | None] = [None] * len(perturbations)
    if not tried:
        return result
    weights = output_weights(evaluation)
    # Constants have to fit into a model; each chunk takes a pass of its own.
    chunks = list(in_chunks(tried, lambda i: 4 * perturbations[i].entries, LARGEST_CONSTANTS))
    for chunk in chunks:
        chosen = [perturbations[i] for i in chunk]
        model, effects = _instrumented(evaluation, chosen, weights)
        step = on_batch if chunk is chunks[-1] else None
        totals = _sums_of_squares(evaluation, model, effects, step)
        for index, total in zip(chunk, totals, strict=True):
            result[index] = total if np.isfinite(total) else None
    return result


def _sums_of_squares(
    evaluation: Evaluation,
    model: LightModel,
    outputs: Sequence[str],
    on_batch: Callable[[int], object] | None,
) -> list[float]:
    """Run an instrumented model; square and sum every output over all samples."""
    totals = np.zeros(len(outputs))
    for found in evaluation.run(model, on_batch):
        totals += [np.square(found[name], dtype=np.float64).sum() for name in outputs]
    return totals.tolist()


def obstacles(evaluation: Evaluation) -> str:
    """Name what may keep gradients from reaching some layers."""
    version = opset(evaluation.part)
    if version < WRITTEN_IN:
        return f"operator set {version}"
    ops = {node.op_type for node in evaluation.part.graph.node} - GRADIENTS.keys() - SIZES
    if evaluation.facts.varying:
        ops |= {"images or sequences whose sizes differ from feed to feed"}
    return ", ".join(sorted(ops)) or "some operators with their attributes"


def _instrumented(
    evaluation: Evaluation, perturbations: Sequence[Perturbation], weights: Mapping[str, float]
) -> tuple[LightModel, list[str]]:
    """Append a backward pass, and each perturbation's effect, a number per sample."""
    changed = list(dict.fromkeys(y for each in perturbations for y in each.outputs))
    backward = BackwardPass(evaluation, weights, changed)
    tape, layers = backward.tape, evaluation.facts.layers
    nodes = ((first_result(node), node) for node in evaluation.part.graph.node)
    makers = {layers[name].y: node for name, node in nodes if name in layers}
    effects = []
    for perturbation in perturbations:
        terms = []
        for change in perturbation.changes():
            y = change.linear.y
            product = change_of_output(tape, makers[y], change) * backward.gradients[y]
            front = evaluation.in_front_of_samples[y]
            apart = tape.op("Concat", [front], SAMPLES, [-1], axis=0)
            terms.append(product.op("Reshape", apart).sum([0, 2], keep=False))
        effects.append(tape.sum(terms).name)
    return backward.model(effects), effects


def change_of_output(tape: Tape, node: onnx.NodeProto, change: WeightChange) -> Value:
    """Write a layer with the change of its constants, which is the change of its output."""
    x, weight = tape.value(node.input[0]), change.weight
    bias = [] if change.bias is None else [tape.floats(change.bias)]
    if node.op_type != "MatMul" and not change.linear.recurrent:
        return tape.op(node.op_type, x, tape.floats(weight), *bias, **attributes(node))
    # A recurrent layer's is that of its projection.
    matrix = weight if node.op_type == "MatMul" else weight.reshape(-1, weight.shape[2]).T
    product = tape.op("MatMul", x, tape.floats(matrix))
    return product + bias[0] if bias else product
