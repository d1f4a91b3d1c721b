"""A cut model beside its original, as a refit works on them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.data.augment import with_copies
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import affected_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.uses import counted_tensors
from onnx_reap.measure.activations.frontier import Frontier
from onnx_reap.measure.activations.stream import ActivationStream
from onnx_reap.measure.autodiff.backward import Facts
from onnx_reap.measure.autodiff.older import WRITTEN_IN, as_written
from onnx_reap.measure.autodiff.tape import opset
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.parameters import Parameters, find_parameters

JUDGES = 2
"""Samples of the validation split at least: one alone tells no noise."""

PER_ENTRY = 200
"""Multiply-accumulates in the time that a backward pass takes for an activation."""


@dataclass(frozen=True)
class ModelPair:
    """The original tells what the layers of the cut model are to give."""

    run: Run  # On the original
    pruned: Model  # Cut; its weights are replaced
    kept: Kept  # Axis and positions that stay, for tensors that were cut
    batch: int  # Samples per run
    copies: int = 0  # Of every sample that is fitted, to fit as well
    # Whether layers are fitted to the validation split as well, once it has chosen their dampings
    on_all: bool = True

    @property
    def original(self) -> Model:
        """With constants folded as in `pruned`, so that tensors have the same names."""
        return self.run.analysis.model

    @property
    def probe(self) -> Probe:
        """Shapes of the original's tensors."""
        return self.run.analysis.probe

    @property
    def pads(self) -> bool:
        """Whether the model insists on its batch size."""
        return self.run.analysis.fixed_batch is not None

    @cached_property
    def calibration(self) -> Calibration:
        """The samples that are fitted first, with their copies, then the validation split."""
        samples = self.run.samples
        assert samples.fit is not None
        parts = samples.train_validation
        if parts is None:
            return samples.fit
        both, own = parts[0].followed_by(parts[1]), len(parts[0])
        if not self.copies or samples.augment is None:
            return both
        copies = range(1, self.copies + 1)
        places = [len(both) * number + place for number in copies for place in range(own)]
        stretched = with_copies(both, samples.augment, self.copies, samples.seed)
        return stretched.at([*range(own), *places, *range(own, len(both))])

    @property
    def fit_samples(self) -> int:
        """How many samples are fitted, copies included."""
        parts = self.run.samples.train_validation
        return len(self.calibration) - (0 if parts is None else len(parts[1]))

    def stream(self, *, apart: bool = False) -> ActivationStream:
        """Run one of the models over all samples.

        Parameters
        ----------
        apart : bool
            Whether batches hold samples that are fitted, or of the validation split alone.
        """
        every, fitted = self.calibration, self.fit_samples
        places = range(len(every))
        parts = [every.at(places[:fitted]), every.at(places[fitted:])] if apart else [every]
        return ActivationStream(parts, self.batch, self.pads, self.run.analysis.providers)

    def facts(self, linears: Sequence[Linear]) -> Facts:
        """Tell what is known of the cut model's tensors, also of those that a refit added."""
        shapes, layers = dict(self.probe.shapes), {}
        varying = self.run.analysis.varying | counted_tensors(self.pruned)
        for layer in linears:
            result = self.pruned.node(layer.node).outputs[0].name
            shapes[result] = shapes[layer.y]
            varying |= {result} if layer.y in varying else frozenset()
            layers[result] = layer
        return Facts(shapes, layers, varying)

    def parameters(self, linears: Sequence[Linear], needed: Collection[str]) -> Parameters:
        """List what may move in the cut model, see `find_parameters`."""
        affected = affected_tensors(self.pruned.nodes, self.kept.keys())
        # Budgets count the biases behind these.
        may_grow = [linear.node for linear in linears if linear.x in affected]
        return find_parameters(self.pruned, linears, needed, may_grow)

    def costs(self, linears: Sequence[Linear]) -> dict[str, float]:
        """Estimate how long layers of the cut model take next to each other, by node."""
        shapes, found = self.probe.shapes, {}
        for each in linears:
            weight, shape = self.pruned.node(each.node).inputs[1].values, shapes[each.y]
            outputs = weight.shape[each.weight_out] * (each.group if each.transposed else 1)
            places = float(np.prod(shape) / shape[each.y_axis])
            found[each.node] = places * (weight.size + PER_ENTRY * outputs)
        return found

    def frontier(self, model: Model) -> Frontier:
        """Find out where runs of one of the models can start."""
        return Frontier(model, self.probe, len(self.calibration))


def as_cut(linear: Linear, kept: Kept) -> Linear:
    """Describe a layer after the cut: a depthwise convolution has fewer groups."""
    if linear.depthwise and linear.x in kept:
        return replace(linear, group=len(kept[linear.x][1]))
    return linear


def linears_left(run: Run, pruned: Model, kept: Kept) -> list[Linear]:
    """List the layers of a cut model that are not recurrent, as they are after the cut."""
    left = {pruned.keys[id(node)] for node in pruned.nodes}
    return [
        as_cut(linear, kept)
        for linear in run.analysis.flow.linears
        if linear.node in left and not linear.recurrent
    ]


def obstacle(run: Run, pruned: Model) -> str | None:
    """Tell why layers of this model can't be refitted by gradient, if that is so."""
    parts = run.samples.train_validation
    fewest = (run.analysis.fixed_batch or 1, JUDGES)
    if parts is None or any(len(part) < few for part, few in zip(parts, fewest, strict=True)):
        return f"too few samples ({len(run.samples.fit or ())}) to leave a validation split"
    if opset(as_written(run.analysis.light)) < WRITTEN_IN:
        return (
            f"gradients take operator set {WRITTEN_IN} or newer, and the model is in "
            f"{pruned.opset} and can't be written in it"
        )
    return None
