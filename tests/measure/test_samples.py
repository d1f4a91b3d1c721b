"""Samples are found in what layers give, in front of steps or behind, whatever else is as long."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.samples import in_front_of_samples

STEPS = 12


def fronts(net: Net, result: str, batch: int | str, *, data: np.ndarray | None = None) -> dict:
    """Return what lies in front of samples, by layer."""
    proto = net.model(result)
    if data is None:
        shape = [each.dim_value for each in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
        data = np.random.default_rng(1).standard_normal((20, *shape)).astype(np.float32)
    inputs = model_inputs(proto)
    analysis = analyse(proto, inputs, open_calibration(data, inputs))
    assert analysis.fixed_batch == (None if batch == "N" else batch)
    found = in_front_of_samples(analysis, analysis.flow.linears)
    return {layer.node: found.get(layer.y) for layer in analysis.flow.linears}


def recurrent(net: Net, x: str, inputs: int, hidden: int = 5) -> str:
    """A recurrent layer on (steps, samples, inputs)."""
    weights = [net.weight(1, hidden, size, scale=0.4) for size in (inputs, hidden)]
    return net("Squeeze", net("RNN", x, *weights, hidden_size=hidden, name="rnn"), np.array([1]))


def sequences(batch: int | str, channels: int) -> tuple[Net, str]:
    """A recurrent layer's input, (steps, samples, channels)."""
    net = Net({"x": (batch, STEPS, 7)})
    x = net("MatMul", net("Transpose", "x", perm=[1, 0, 2]), net.weight(7, channels), name="in")
    return net, x


@pytest.mark.parametrize("batch", ["N", 1, 4, 5, 12])
@pytest.mark.parametrize("channels", [4, 5, 12])
def test_steps_in_front_of_samples_are_told(batch, channels):
    """A batch may be as long as there are steps or channels, or divide them."""
    net, x = sequences(batch, channels)
    y = net("MatMul", recurrent(net, x, channels), net.weight(5, channels), name="out")
    y = net("Transpose", y, perm=[1, 0, 2])
    front = 1 if batch == 1 else STEPS  # of a single sample everything is its own
    assert fronts(net, y, batch) == dict.fromkeys(["in", "rnn", "out"], front)


@pytest.mark.parametrize("batch", ["N", 4, 5, 12])
@pytest.mark.parametrize("steps_first", [True, False])
def test_steps_and_samples_may_be_one_axis(batch, steps_first):
    net, x = sequences(batch, 6)
    y = recurrent(net, x, 6)
    if not steps_first:
        y = net("Transpose", y, perm=[1, 0, 2])
    y = net("MatMul", net("Reshape", y, np.array([-1, 5])), net.weight(5, 3), name="flat")
    shape = [STEPS, -1, 3] if steps_first else [-1, STEPS, 3]
    y = net("Reshape", y, np.array(shape))
    y = net("Transpose", y, perm=[1, 0, 2]) if steps_first else y
    assert fronts(net, y, batch)["flat"] == (STEPS if steps_first else 1)


@pytest.mark.parametrize("batch", [4, 8])
def test_channels_are_never_taken_for_samples(batch):
    """Frames of a video are images behind each other; a recurrent layer reads them in turn."""
    net = Net({"x": (batch, 3, 3, 6, 6)})
    h = net("Reshape", "x", np.array([-1, 3, 6, 6]))
    h = net("Relu", net.conv(h, 3, batch, name="conv"))
    h = net("ReduceMean", h, axes=[2, 3], keepdims=0)
    h = net("Transpose", net("Reshape", h, np.array([batch, 3, batch])), perm=[1, 0, 2])
    y = net("Transpose", recurrent(net, h, batch), perm=[1, 0, 2])
    assert fronts(net, y, batch) == {"conv": 1, "rnn": 3}


@pytest.mark.parametrize("batch", ["N", 4])
def test_steps_come_first_without_a_recurrent_layer_too(batch):
    """As PyTorch's attention wants them."""
    net = Net({"x": (batch, STEPS, 7)})
    h = net("MatMul", net("Transpose", "x", perm=[1, 0, 2]), net.weight(7, 6), name="first")
    h = net("Transpose", net("Relu", h), perm=[1, 0, 2])
    y = net("MatMul", h, net.weight(6, 4), name="last")
    assert fronts(net, y, batch) == {"first": STEPS, "last": 1}


def test_samples_that_are_all_alike_are_not_told_from_steps_that_are():
    net, x = sequences(4, 6)
    y = net("Transpose", net("Relu", x), perm=[1, 0, 2])
    y = net("MatMul", y, net.weight(6, 3), name="out")
    assert fronts(net, y, 4, data=np.ones((20, STEPS, 7), np.float32)) == {"in": None, "out": None}
