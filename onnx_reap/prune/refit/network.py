"""All layers of a cut model at once, towards the original's activations behind its blocks.

A refit of single layers, and of blocks, leaves what it did before as it is. Here everything moves
together, by the gradient of the squared errors behind all blocks in one forward pass of the pruned
model, relative to their variances. The original is run on the same inputs, so no label is
involved, and inputs may be varied.

References
----------
A. Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.measure.autodiff.backward import (
    Facts,
    Scores,
    reached,
    with_errors,
    with_gradients,
)
from onnx_reap.measure.variation import Variation, by_sample
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.parameters import Arrays, Parameters
from onnx_reap.prune.refit.side_by_side import Feed, SideBySide
from onnx_reap.prune.refit.step_sizes import StepSizes, step_sizes

VARIANCE_SAMPLES = 32  # that tell how much the original's activations vary


@dataclass(frozen=True)
class Distance:
    """How far the pruned model is from the original on some samples."""

    # Squared errors relative to the original's variances: mean behind all blocks, and mean of the
    # outputs that hold no class scores; divergence of those that do
    blocks: float
    outputs: float | None
    divergence: float | None

    def change_from(self, other: "Distance") -> float:
        """Return the mean logarithm of the ratios to another's: below 0 where this is nearer."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        ratios = [_log_ratio(a, b) for a, b in pairs if a is not None and b is not None]
        return sum(ratios) / len(ratios)

    def keeps_outputs(self, other: "Distance") -> bool:
        """Whether no output is further away than another tells."""
        pairs = ((self.outputs, other.outputs), (self.divergence, other.divergence))
        return all(now <= before for now, before in pairs if now is not None and before is not None)


def _log_ratio(now: float, before: float) -> float:
    tiny = float(np.finfo(np.float32).tiny)
    return math.log(max(now, tiny) / max(before, tiny)) if math.isfinite(now) else math.inf


class Network:
    """Runs the original and the pruned model on the same inputs, forward and backward.

    Parameters
    ----------
    parameters : Parameters
        Those that gradients don't reach stay as they are.
    facts : Facts
        About the pruned model.
    goals : sequence of str
        Tensors of both models whose errors count.
    scores : sequence of Scores
        Outputs that hold class scores.
    batch : int
        Samples in a run.
    together : int
        Runs whose gradients make a step.

    Attributes
    ----------
    parameters : Parameters
        Those that gradients reach.
    values : dict of str to array
        What they are; where there are none, nothing else can be asked.
    before : Distance
        With these.
    for_all : callable
        Does work on all items of an iterable, some at a time.
    """

    def __init__(
        self,
        pair: ModelPair,
        parameters: Parameters,
        facts: Facts,
        goals: Sequence[str],
        scores: Sequence[Scores],
        batch: int,
        together: int,
    ) -> None:
        parts = pair.run.samples.train_validation
        assert parts is not None
        self._training, self._validation = parts
        self._pair, self.batch, self.together = pair, batch, together
        self._side_by_side = SideBySide(pair.run.analysis.providers, together)
        self.for_all = self._side_by_side.for_all
        self._augment = pair.run.samples.augment
        self._some = self._training.take(VARIANCE_SAMPLES, pair.run.settings.seed)
        first = next(self._batches(self._some))
        inputs = {name: array.dtype for name, array in first.items()}
        part = pair.original.part(inputs, goals)
        self._run_original = self._side_by_side.runner(part, goals, weights_fed=False)
        weights = self._weights(goals)
        self._start = parameters.values
        self.parameters = parameters.only(set())
        if weights:
            part, facts = parameters.part(inputs, [*weights]), parameters.facts(facts)
            self.parameters = parameters.only(reached(part, facts, [*self._start]))
        self.values = self.parameters.values
        if not self.values:
            return
        means = {name: weight / len(weights) for name, weight in weights.items()}
        self._trainer = with_gradients(part, facts, means, sorted(self.values))
        gradients = [*self._trainer.gradients.values()]
        self._run_backward = self._side_by_side.runner(self._trainer.model, gradients)
        self._goals = part, facts, weights
        self._compare([each for each in scores if each.output in weights])
        self.before = self.distance(self.values)
        if not math.isfinite(self.before.divergence or 0.0):
            self._compare(())
            self.before = self.distance(self.values)

    def _compare(self, scores: Sequence[Scores]) -> None:
        """Choose the outputs whose distance is one of class scores."""
        part, facts, weights = self._goals
        self._comparison = with_errors(part, facts, weights, scores)
        returned = [value.name for value in self._comparison.model.graph.output]
        self._run_forward = self._side_by_side.runner(self._comparison.model, returned)
        compared = {each.output for each in scores}
        outputs = [tensor.name for tensor in self._pair.original.graph.outputs]
        self._outputs = [name for name in outputs if name in weights and name not in compared]

    def step_sizes(self, *, zeros_stay: bool) -> StepSizes:
        """Find out how far parameters move."""
        feed, providers = next(self._batches(self._some)), self._pair.run.analysis.providers
        return step_sizes(self.parameters, feed, self.together, providers, zeros_stay=zeros_stay)

    @property
    def batches(self) -> int:
        """Batches of a pass over the training samples."""
        return max(len(self._training) // self.batch, 1)

    @property
    def has_copies(self) -> bool:
        """Whether there are random copies of the samples."""
        return self._augment is not None

    def one_pass(self, rng: np.random.Generator, *, copies: bool) -> Iterator[list[Feed]]:
        """Yield the training samples in random order, or copies, some batches for every step.

        What is left for no whole batch waits for another pass.
        """
        batch = min(self.batch, len(self._training))
        order = rng.permutation(len(self._training))[: len(self._training) // batch * batch]
        step: list[Feed] = []
        for feed in self._training.at(order.tolist()).batches(batch):
            step.append(self._augment.augmented(feed, rng) if copies and self._augment else feed)
            if len(step) == self.together:
                yield step
                step = []
        if step:
            yield step

    def gradients(self, values: Arrays, feeds: Sequence[Feed]) -> Arrays:
        """Sum gradients over batches."""
        totals: dict[str, np.ndarray] = {}
        for found in self._results(self._run_backward, feeds, values):
            for name, gradient in self._trainer.gradients.items():
                add = found[gradient].reshape(values[name].shape)
                totals[name] = totals[name] + add if name in totals else add
        return totals

    def distance(self, values: Arrays) -> Distance:
        """Measure how far the pruned model is from the original on the validation split."""
        comparison = self._comparison
        totals = {value.name: 0.0 for value in comparison.model.graph.output}
        feeds = self._batches(self._validation)
        left, samples = len(self._validation), 0.0
        for found in self._results(self._run_forward, feeds, values):
            share = min(left, self.batch) / self.batch
            for name in totals:
                # Errors are sums over the samples that were run, divergences means.
                whole = self._pair.pads or name == comparison.distance
                totals[name] += float(found[name]) * (share if whole else 1.0)
            samples, left = samples + share, left - self.batch
        errors = {goal: totals[name] / samples for goal, name in comparison.errors.items()}
        outputs = [errors[name] for name in self._outputs]
        return Distance(
            sum(errors.values()) / len(errors),
            sum(outputs) / len(outputs) if outputs else None,
            totals[comparison.distance] / samples if comparison.distance else None,
        )

    def _results(
        self, model: Callable[[Feed], Arrays], feeds: Iterable[Feed], values: Arrays
    ) -> Iterator[Arrays]:
        """Run a model on feeds, beside what the original makes of them."""
        return self._side_by_side.over(lambda feed: model(self._fed(feed, values)), feeds)

    def _fed(self, feed: Feed, values: Arrays) -> Feed:
        """Put together what a backward pass is fed, with what the original gives."""
        wanted = self._wanted(feed)
        targets = {fed: wanted[name] for name, fed in self._comparison.targets.items()}
        return {**self._start, **values, **feed, **targets}

    def _wanted(self, feed: Feed) -> dict[str, np.ndarray]:
        """Run the original, and leave out channels that were cut."""
        kept = self._pair.kept
        return {
            name: np.take(x, kept[name][1], kept[name][0]) if name in kept else x
            for name, x in self._run_original(feed).items()
        }

    def _weights(self, goals: Sequence[str]) -> dict[str, float]:
        """Weight squared errors so that the sum over a batch is relative to the variance.

        What isn't float32 and finite in the original can't be compared.
        """
        analysis, samples = self._pair.run.analysis, 0
        found = {name: Variation() for name in goals}
        for feed in self._batches(self._some):
            own = min(self.batch, len(self._some) - samples)
            count = self.batch if self._pair.pads else own
            samples, wanted = samples + count, self._wanted(feed)
            for name in [*found]:
                if wanted[name].dtype != np.float32 or not np.isfinite(wanted[name]).all():
                    del found[name]
                else:
                    found[name].add(by_sample(analysis, name, wanted[name], count))
        by_batch = {name: each.total * self.batch / samples for name, each in found.items()}
        tiny = np.finfo(np.float32).tiny
        return {name: 1 / total for name, total in by_batch.items() if tiny < total < np.inf}

    def _batches(self, samples: Calibration) -> Iterator[dict[str, np.ndarray]]:
        return samples.batches(self.batch, pad=self._pair.pads)
