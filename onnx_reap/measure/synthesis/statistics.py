"""What a model's BatchNormalizations tell of the samples that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.measure.autodiff.backward import Facts, backpropagate, reached
from onnx_reap.measure.autodiff.tape import PREFIX, Tape
from onnx_reap.onnxio.light_model import LightModel

EPSILON = 1e-5  # BatchNormalization's own default


@dataclass(frozen=True)
class Stored:
    """Mean and variance of a tensor by channel, over the samples of the training."""

    mean: np.ndarray  # (channels,) float64
    variance: np.ndarray  # (channels,) float64, without epsilon
    epsilon: float  # What the model adds to a variance

    @property
    def tells(self) -> bool:
        """Whether these are statistics, and not what a normalisation without any has in place."""
        finite = np.isfinite(self.mean).all() and np.isfinite(self.variance).all()
        initial = not self.mean.any() and (self.variance == 1).all()
        return bool(finite and (self.variance + self.epsilon > 0).all() and not initial)

    def distance(self, moments: np.ndarray) -> tuple[float, np.ndarray]:
        """Compare moments with the stored ones.

        The distance is the mean over channels of the squared difference of means, relative to the
        variance, plus that of the logarithms of the standard deviations.

        Parameters
        ----------
        moments : (2, channels) array
            Means of a tensor less the stored mean, and of the square of this.

        Returns
        -------
        distance : float
        start : (2, channels) array
            ``start[0] * (x - mean) + start[1]`` is the gradient at the tensor, but for the number
            of entries that moments are taken over.
        """
        away, squared = moments
        channels, wanted = len(self.mean), self.variance + self.epsilon
        variance = np.maximum(squared - away**2, 0) + self.epsilon
        logarithm = np.log(variance / wanted)
        distance = float(np.mean(away**2 / wanted + logarithm**2 / 4))
        scale = logarithm / variance / channels
        return distance, np.stack([scale, 2 * away / wanted / channels - scale * away])


def stored_statistics(analysis: Analysis) -> dict[str, Stored]:
    """Return what is stored of the tensors that BatchNormalizations read, by their names."""
    found: dict[str, Stored] = {}
    for node in analysis.model.nodes:
        if node.op != "BatchNormalization" or (node.domain or "") not in STANDARD_DOMAINS:
            continue
        mean, variance = node.inputs[3:5]
        constant = isinstance(mean, gs.Constant) and isinstance(variance, gs.Constant)
        if not constant or node.attrs.get("training_mode", 0):
            continue
        epsilon = float(node.attrs.get("epsilon", EPSILON))
        stored = Stored(mean.values.astype(np.float64), variance.values.astype(np.float64), epsilon)
        name = node.inputs[0].name
        if stored.tells and name in analysis.probe.shapes and name not in analysis.varying:
            found.setdefault(name, stored)
    return found


@dataclass(frozen=True)
class Instrumented:
    """A model that tells moments of tensors, and the gradient at its input.

    Moments are averages over a run. So that statistics can be those of more samples than fit into a
    run, what the gradient starts from is fed: see `Stored.distance`.
    """

    model: LightModel
    moments: Mapping[str, tuple[str, str]]  # Outputs of shape (channels,), by the tensor
    starts: Mapping[str, tuple[str, str]]  # Inputs `scale` and `shift`, by the tensor
    gradient: str  # Output: of the shape of the model's input


def instrumented(
    analysis: Analysis, fed: str, statistics: Mapping[str, Stored]
) -> Instrumented | None:
    """Append moments and a backward pass to a model; None where no gradient reaches its input."""
    model, facts = analysis.model, Facts.of(analysis)
    inner = [name for name in statistics if name != fed]
    if not inner:
        return None
    part = model.part({fed: analysis.probe.dtypes[fed]}, inner)
    if not reached(part, facts, [fed]):
        return None
    out = onnx.ModelProto()
    out.CopyFrom(part.proto)
    tape = Tape(replace(part, proto=out), facts.shapes, facts.layers)
    moments, starts, gradients = {}, {}, {}
    for name, stored in statistics.items():
        x = tape.value(name)
        rank = len(x.shape)
        by_channel, others = [-1, *[1] * (rank - 2)], [0, *range(2, rank)]
        away = x - tape.floats(stored.mean.reshape(by_channel))
        means = (each.reduced("ReduceMean", others, keep=False) for each in (away, away * away))
        first, second = (each.name for each in means)
        moments[name] = first, second
        scale, shift = (f"{PREFIX}{kind}/{name}" for kind in ("scale", "shift"))
        starts[name] = scale, shift
        start = away * tape.value(scale).reshape(by_channel)
        gradients[name] = start + tape.value(shift).reshape(by_channel)
    gradient = backpropagate(tape, part.graph.node, gradients, [fed])[fed].name
    _set_ends(out.graph, starts, [*_flat(moments), gradient])
    return Instrumented(replace(part, proto=out), moments, starts, gradient)


def _set_ends(
    graph: onnx.GraphProto, starts: Mapping[str, tuple[str, str]], outputs: Sequence[str]
) -> None:
    floats = onnx.TensorProto.FLOAT
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, floats, [None]) for name in _flat(starts)
    )
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)


def _flat(pairs: Mapping[str, tuple[str, str]]) -> list[str]:
    return [name for pair in pairs.values() for name in pair]
