"""Measure sensitivities to all perturbations by one forward and one backward pass.

A perturbation changes some layers' constants, and so their outputs by what the layers compute with
the difference. Its product with the gradient of a random direction of the model's outputs is,
squared and on average, how far the outputs move, see `divergence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.autodiff.backward import (
    SIZES,
    Facts,
    backpropagate,
    first_result,
    reached,
)
from onnx_reap.measure.autodiff.older import WRITTEN_IN, as_written
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.measure.autodiff.tape import PREFIX, Tape, Value, attributes, opset
from onnx_reap.measure.runner import Outputs, batch_size, run_batches
from onnx_reap.measure.samples import in_front_of_samples
from onnx_reap.measure.sensitivity.divergence import Metric, metrics
from onnx_reap.measure.sensitivity.perturbation import Perturbation, WeightChange
from onnx_reap.measure.variation import Variation, by_sample
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.options import Settings
from onnx_reap.solve.chunks import in_chunks

SAMPLES = f"{PREFIX}samples"
"""Input: the number of samples in a run."""

LARGEST_BATCH = 8
"""Samples in a run: more are no faster."""

LARGEST_CONSTANTS = 256 << 20
"""Bytes of changed weights in one model."""


@dataclass(frozen=True)
class Evaluation:
    """What sensitivities are measured of, and on."""

    analysis: Analysis  # Of the original, which is only read
    metrics: Sequence[Metric]  # Outputs, and how each is compared
    samples: Calibration  # Best not among those that perturbations were fitted to
    seed: int  # Of the random directions

    @classmethod
    def of(cls, analysis: Analysis, samples: Calibration, settings: Settings) -> Evaluation:
        """Compare all outputs that can be, as the settings want it."""
        model, probe = analysis.model, analysis.probe
        found = metrics(model, probe.shapes, probe.dtypes, settings.metric)
        compared = [each for each in found if probe.dtypes[each.output] == np.float32]
        return cls(analysis, compared, samples, settings.seed)

    @cached_property
    def part(self) -> LightModel:
        """What computes the outputs that are compared."""
        model, dtypes = self.analysis.model, self.analysis.probe.dtypes
        fed = {t.name: dtypes[t.name] for t in model.graph.inputs}
        return as_written(model.part(fed, [metric.output for metric in self.metrics]))

    @cached_property
    def facts(self) -> Facts:
        """What is known of the model's tensors."""
        return Facts.of(self.analysis)

    @cached_property
    def in_front_of_samples(self) -> dict[str, int]:
        """By the outputs of layers with the type that rules write; see `samples`."""
        dtypes, layers = self.analysis.probe.dtypes, self.analysis.flow.linears
        plain = [layer for layer in layers if dtypes[layer.y] == np.float32]
        return in_front_of_samples(self.analysis, plain)

    @cached_property
    def batch(self) -> int:
        """Samples in a run; a backward pass may need all tensors of a forward pass."""
        made = [name for node in self.part.graph.node for name in node.output]
        fitting = batch_size(self.analysis.probe, made, None)
        return self.analysis.fixed_batch or min(LARGEST_BATCH, fitting)

    def run(
        self, model: LightModel, on_batch: Callable[[int], object] | None = None
    ) -> Iterator[Outputs]:
        """Run an instrumented model on all samples; yield its outputs, batch by batch."""
        batches = run_batches(
            self.analysis,
            [model],
            self.samples,
            batch=self.batch,
            count_input=SAMPLES,
            on_batch=on_batch,
        )
        return (found for _, (found,) in batches)


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


def _probed_batch(analysis: Analysis) -> int:
    """Return how many samples the shapes of the probe are of."""
    return analysis.fixed_batch or analysis.probe.batch


def output_weights(evaluation: Evaluation) -> dict[str, float]:
    """Return factors of the directions of each output with which squares sum to a mean."""
    scales, shapes = _variances(evaluation), evaluation.analysis.probe.shapes
    for metric in evaluation.metrics:
        if metric.kind != "values":
            shape = shapes[metric.output]
            classes, probed = shape[metric.axis], _probed_batch(evaluation.analysis)
            distributions = np.prod(shape) / classes / probed
            scales[metric.output] = float(max(distributions * len(evaluation.samples), 1))
    return {name: float(1 / np.sqrt(scale)) for name, scale in scales.items()}


def _variances(evaluation: Evaluation) -> dict[str, float]:
    """Return what outputs that are compared by values vary by in all; 1 for outputs of zeros."""
    names = [metric.output for metric in evaluation.metrics if metric.kind == "values"]
    if not names:
        return {}
    found = {name: Variation() for name in names}
    runs = run_batches(
        evaluation.analysis, [evaluation.part], evaluation.samples, batch=evaluation.batch
    )
    for count, (outputs,) in runs:
        for name in names:
            found[name].add(by_sample(evaluation.analysis, name, outputs[name], count))
    return {name: variation.total or 1.0 for name, variation in found.items()}


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


class BackwardPass:
    """A pass from random directions of the outputs, appended to a copy of the model.

    Parameters
    ----------
    weights : mapping of str to float
        See `output_weights`.
    wanted : sequence of str
        Tensors, all of them `reached`.

    Attributes
    ----------
    tape : Tape
        To go on writing.
    gradients : dict of str to Value
        At these tensors.
    """

    def __init__(
        self, evaluation: Evaluation, weights: Mapping[str, float], wanted: Sequence[str]
    ) -> None:
        self._part, facts, out = evaluation.part, evaluation.facts, onnx.ModelProto()
        out.CopyFrom(self._part.proto)
        self._out = out
        self.tape = tape = Tape(replace(self._part, proto=out), facts.shapes, facts.layers)
        starts = {}
        for index, metric in enumerate(evaluation.metrics):
            signs = _signs(tape.value(metric.output), _noise_seed(evaluation.seed, index))
            direction = tape.value(metric.direction(tape, signs.name))
            starts[metric.output] = direction * weights[metric.output]
        self.gradients = backpropagate(tape, self._part.graph.node, starts, wanted)

    def model(self, outputs: Sequence[str]) -> LightModel:
        """Return the model with these outputs; it is fed the number of samples, too."""
        graph = self._out.graph
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        counts = onnx.helper.make_tensor_value_info(SAMPLES, onnx.TensorProto.INT64, [1])
        graph.input.append(counts)
        return replace(self._part, proto=self._out)


def _signs(x: Value, seed: int) -> Value:
    """Write random signs of a tensor's shape."""
    tape = x.tape
    if tape.opset < 22:
        return x.op("RandomNormalLike", seed=float(seed)).op("Sign")
    # Of operators that draw numbers onnxruntime has no newer kernels but this one's, which it takes
    # out unless what it is fed is computed from inputs.
    ones = x.op("Equal", x).floats()
    training = tape.op("Squeeze", SAMPLES).op("Cast", to=onnx.TensorProto.BOOL)
    return ones.op("Dropout", tape.floats(0.5), training, seed=seed) - 1


def _noise_seed(seed: int, index: int) -> int:
    """Return a seed that float32 holds: not 0, which onnxruntime takes for 1."""
    return int(np.random.default_rng((seed, index)).integers(1, 2**24))


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
