"""What sensitivities are measured of, on which samples, and how outputs are weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.autodiff.backward import Facts
from onnx_reap.measure.autodiff.older import as_written
from onnx_reap.measure.autodiff.tape import PREFIX
from onnx_reap.measure.runner import Outputs, batch_size, run_batches
from onnx_reap.measure.samples import in_front_of_samples
from onnx_reap.measure.sensitivity.divergence import Metric, metrics
from onnx_reap.measure.variation import Variation, by_sample
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.options import Settings

SAMPLES = f"{PREFIX}samples"
"""Input of instrumented models: the number of samples in a run."""

LARGEST_BATCH = 8
"""Samples in a run: more are no faster."""


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
