"""What a model's BatchNormalizations tell of the samples that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.measure.autodiff.backward import Facts, backpropagate, reached
from onnx_reap.measure.autodiff.older import as_written
from onnx_reap.measure.autodiff.tape import PREFIX, Tape, Value
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
    """Models that tell moments of tensors, and the gradient of their distance at the input.

    Statistics may be those of more samples than fit into a run: moments are averages over a run,
    and what the gradient starts from is fed, see `Stored.distance`.
    """

    forward: LightModel
    moments: Mapping[str, tuple[str, str]]  # Its outputs of shape (channels,), by the tensor
    backward: LightModel  # Its output is the gradient
    starts: Mapping[str, tuple[str, str]]  # Its inputs of shape (channels,), by the tensor


def instrumented(
    analysis: Analysis, fed: str, statistics: Mapping[str, Stored]
) -> Instrumented | None:
    """Write moments and a backward pass behind a model; None if no gradient reaches its input."""
    facts, inner = Facts.of(analysis), [name for name in statistics if name != fed]
    if not inner:
        return None
    part = as_written(analysis.model.part({fed: analysis.probe.dtypes[fed]}, inner))
    if not reached(part, facts, [fed]):
        return None
    forward, moments = _with_moments(part, facts, statistics)
    backward, starts = _with_gradient(part, facts, statistics, fed)
    return Instrumented(forward, moments, backward, starts)


def _with_moments(
    part: LightModel, facts: Facts, statistics: Mapping[str, Stored]
) -> tuple[LightModel, dict[str, tuple[str, str]]]:
    out, tape = _copied(part, facts)
    moments = {}
    for name, stored in statistics.items():
        away = _away(tape, name, stored)
        others = [0, *range(2, len(facts.shapes[name]))]
        first, second = (x.reduced("ReduceMean", others, keep=False) for x in (away, away * away))
        moments[name] = first.name, second.name
    out.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _flat(moments))
    return replace(part, proto=out), moments


def _with_gradient(
    part: LightModel, facts: Facts, statistics: Mapping[str, Stored], fed: str
) -> tuple[LightModel, dict[str, tuple[str, str]]]:
    out, tape = _copied(part, facts)
    starts, gradients = {}, {}
    for name, stored in statistics.items():
        starts[name] = f"{PREFIX}scale/{name}", f"{PREFIX}shift/{name}"
        by_channel = _by_channel(facts, name)
        scale, shift = (tape.value(each).reshape(by_channel) for each in starts[name])
        gradients[name] = _away(tape, name, stored) * scale + shift
    found = backpropagate(tape, part.graph.node, gradients, [fed])[fed]
    floats = onnx.TensorProto.FLOAT
    out.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, floats, [None]) for name in _flat(starts)
    )
    out.graph.output.append(onnx.ValueInfoProto(name=found.name))
    return replace(part, proto=out), starts


def _copied(part: LightModel, facts: Facts) -> tuple[onnx.ModelProto, Tape]:
    """Return a copy without outputs, to append to."""
    out = onnx.ModelProto()
    out.CopyFrom(part.proto)
    del out.graph.output[:]
    return out, Tape(replace(part, proto=out), facts.shapes, facts.layers)


def _away(tape: Tape, name: str, stored: Stored) -> Value:
    return tape.value(name) - tape.floats(stored.mean.reshape(_by_channel(tape, name)))


def _by_channel(known: Facts | Tape, name: str) -> list[int]:
    """Return the shape of one number a channel."""
    return [-1, *[1] * (len(known.shapes[name]) - 2)]


def _flat(pairs: Mapping[str, tuple[str, str]]) -> list[str]:
    return [name for pair in pairs.values() for name in pair]
