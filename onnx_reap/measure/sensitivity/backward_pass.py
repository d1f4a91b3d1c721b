"""A backward pass from random directions of the outputs, appended to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_reap.measure.autodiff.backward import backpropagate
from onnx_reap.measure.autodiff.tape import Tape, Value
from onnx_reap.measure.sensitivity.evaluation import SAMPLES, Evaluation
from onnx_reap.onnxio.light_model import LightModel


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
