"""Whether the first axis of a model is that of a batch."""

import numpy as np
import pytest
from net import Net

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import analyse
from onnx_reap.graph.batches import MIXED
from onnx_reap.graph.inputs import model_inputs


def image(n: Net) -> str:
    return n.node("Relu", n.node("MatMul", "x", n.weight(6, 8)))


def flattened(n: Net) -> str:
    """Rows of all samples in one axis."""
    return n.node("Reshape", image(n), np.array([-1, 4]))


def time_first(n: Net) -> str:
    """Samples along the second axis."""
    h = n.node("Reshape", image(n), np.array([0, 2, 4]))
    return n.node("Transpose", h, perm=[1, 0, 2])


def time_first_flattened(n: Net) -> str:
    return n.node("Reshape", time_first(n), np.array([-1, 4]))


def attention(n: Net) -> str:
    """Rows that look at each other, whatever their order."""
    h = image(n)
    scores = n.node("MatMul", h, n.node("Transpose", h, perm=[1, 0]))
    return n.node("MatMul", n.node("Softmax", scores, axis=-1), h)


def pooled(n: Net) -> str:
    """A cloud of points."""
    return n.node("ReduceMax", image(n), axes=[0], keepdims=1)


def running(n: Net) -> str:
    """Rows that look at those before."""
    return n.node("CumSum", image(n), np.array(0))


def running_back(n: Net) -> str:
    return n.node("CumSum", image(n), np.array(0), reverse=1)


def random(n: Net) -> str:
    return n.node("Add", image(n), n.node("RandomNormalLike", image(n)))


def quantised(n: Net) -> str:
    """Rounded by the range of the whole batch."""
    rounded = n.node("DynamicQuantizeLinear", image(n), outputs=3)
    return n.node("MatMul", n.node("DequantizeLinear", *rounded), n.weight(8, 8))


def nearly_random(n: Net) -> str:
    """Rows to which hardly any noise is added."""
    noise = n.node("RandomNormalLike", image(n), scale=1e-4)
    return n.node("Add", image(n), noise)


def faint(n: Net) -> str:
    """Rows that hardly look at others."""
    return n.node("Add", image(n), n.node("Mul", pooled(n), np.float32([1e-3])))


def faintly_pooled(n: Net) -> str:
    """One result of all rows, which hardly matter."""
    return n.node("Add", n.weight(1, 8), n.node("Mul", pooled(n), np.float32([1e-3])))


OWN = [image, flattened, time_first, time_first_flattened, random, nearly_random, quantised]
MIXING = [attention, pooled, faint, faintly_pooled, running, running_back]
X = np.random.default_rng(0).normal(size=(6, 8, 6)).astype(np.float32)
X[0, 0] *= 9  # by whose range a batch is quantised


def analysis(build, first, data):
    n = Net({"x": (first, 6)})
    model = n.model(n.node("Identity", build(n)))
    inputs = model_inputs(model)
    return analyse(model, inputs, open_calibration(data, inputs))


@pytest.mark.parametrize("first", ["N", 8])
@pytest.mark.parametrize("build", OWN)
def test_independent_samples_are_rows(build, first):
    for data in (list(X), X.reshape(-1, 6)):
        found = analysis(build, first, data).samples
        assert not found.alone
        assert len(found) == 48
        assert MIXED not in found.notes


@pytest.mark.parametrize("first", ["N", 8])
@pytest.mark.parametrize("build", MIXING)
def test_samples_that_influence_each_other_are_whole_feeds(build, first):
    if build in (pooled, faintly_pooled) and first == 8:
        pytest.skip("a fixed batch doesn't tell which axis of an output is its own")
    found = analysis(build, first, list(X))
    assert found.samples.alone
    assert found.fixed_batch == found.probe.batch == 1
    assert found.probe.shapes["x"] == (8, 6)
    of_array = analysis(build, first, X.reshape(-1, 6)).samples
    assert not of_array.alone
    assert MIXED in of_array.notes
