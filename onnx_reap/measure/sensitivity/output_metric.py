"""Which changes of a layer's outputs the model's final outputs feel.

At every position let g be the gradient, at the layer's outputs, of a random direction of the final
outputs. (g^T d)^2 is on average the divergence that a change d brings, see `divergence`. So a layer
whose weight changes by D, on inputs of second moment G, brings tr(D^T G D M) with M = E[g g^T], if
inputs and gradients are as good as independent [1]_. Channels that are removed by this error go
with what later layers don't read [2]_.

References
----------
.. [1] J. Martens, R. Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate
       Curvature", ICML 2015.
.. [2] C. Wang et al., "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis", ICML
       2019, prune by both factors, in a basis of their own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.autodiff.backward import reached
from onnx_reap.measure.sensitivity.backward_pass import BackwardPass
from onnx_reap.measure.sensitivity.evaluation import Evaluation, output_weights
from onnx_reap.onnxio.light_model import LightModel

WIDEST = 1536
"""Outputs of each map of a layer, past which a matrix of all pairs takes too much memory."""

FAINTEST = 1e-30
"""Sum of squared gradients, below which float32 no longer holds their products."""

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class OutputMetric:
    """What the final outputs feel of a change of one layer's outputs."""

    moments: np.ndarray  # (g, o, o) float64: M of each map, summed over samples and positions
    positions: int  # Of how many, in all samples

    def root(self, scale: np.ndarray) -> np.ndarray:
        """Return R, (g, o, o), with R R^T = M, as far as there are positions enough to know M.

        Of few positions M is mixed with the metric in which every output counts alike.

        Parameters
        ----------
        scale : (g, 1, o) float64 array
            What is made of each output behind the layer; there they count alike.
        """
        width = self.moments.shape[-1]
        known = self.positions / (self.positions + width)
        alike = np.square(scale[:, 0, :])
        total = np.trace(self.moments, axis1=-2, axis2=-1).sum() / max(alike.sum(), TINY)
        mixed = known * self.moments + (1 - known) * total * alike[:, :, None] * np.eye(width)
        values, vectors = np.linalg.eigh(mixed)
        root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
        return root


def output_metrics(
    evaluation: Evaluation,
    layers: Iterable[Linear],
    on_batch: Callable[[int], object] | None = None,
) -> dict[str, OutputMetric]:
    """Measure the metric of some layers' outputs.

    Returns
    -------
    dict of str to OutputMetric
        By output; those are left out that gradients don't reach, that have too many channels, or
        where gradients are not finite or vanish.
    """
    if not evaluation.metrics:
        return {}
    dtypes = evaluation.analysis.probe.dtypes
    by_output = {
        layer.y: layer
        for layer in layers
        if dtypes[layer.y] == np.float32 and _width(evaluation, layer) <= WIDEST
    }
    wanted = sorted(reached(evaluation.part, evaluation.facts, [*by_output]))
    if not wanted:
        return {}
    model, moments, sizes = _instrumented(evaluation, [by_output[y] for y in wanted])
    totals, counts = dict[str, np.ndarray](), dict.fromkeys(wanted, 0)
    for result in evaluation.run(model, on_batch):
        for y in wanted:
            new = result[moments[y]][0].astype(np.float64)
            totals[y] = totals[y] + new if y in totals else new
            counts[y] += int(result[sizes[y]]) // (len(new) * new.shape[1])
    known = [y for y, total in totals.items() if _tells(total)]
    return {y: OutputMetric(totals[y], counts[y]) for y in known}


def _tells(moments: np.ndarray) -> bool:
    """Whether moments are finite, and not what is left of numbers too small for float32."""
    size = np.trace(moments, axis1=-2, axis2=-1).sum()
    return bool(FAINTEST < size < np.inf and np.isfinite(moments).all())


def _instrumented(
    evaluation: Evaluation, layers: Sequence[Linear]
) -> tuple[LightModel, dict[str, str], dict[str, str]]:
    """Append a backward pass, and for every layer's output the moments and size of its gradient.

    The moments have an axis of 1 in front, which nobody takes for samples.
    """
    backward = BackwardPass(evaluation, output_weights(evaluation), [each.y for each in layers])
    moments, sizes = {}, {}
    for layer in layers:
        gradient = backward.gradients[layer.y]
        rank = len(evaluation.analysis.probe.shapes[layer.y])
        axis = layer.y_axis % rank
        first = gradient.transpose([axis, *(other for other in range(rank) if other != axis)])
        maps = first.reshape([1, layer.group, _width(evaluation, layer), -1])
        moments[layer.y] = maps.op("MatMul", maps.transpose([0, 1, 3, 2])).name
        sizes[layer.y] = gradient.op("Size").name
    return backward.model([*moments.values(), *sizes.values()]), moments, sizes


def _width(evaluation: Evaluation, layer: Linear) -> int:
    """Return the outputs of each map of a layer."""
    width = evaluation.analysis.probe.shapes[layer.y][layer.y_axis] // layer.group
    return int(width)
