"""Rows of a refit are of a batch's own samples, those of samples that are fitted first."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from net import Net
from small_models import run

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.edit.weights import layer_weights
from onnx_reap.graph.epilogue import Epilogue
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.ir.recurrent import recurrence
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.measure.activations.stream import ActivationStream
from onnx_reap.prune.refit.order import Job
from onnx_reap.prune.refit.sampling import Sampler

STEPS, INPUTS, HIDDEN = 8, 3, 5
BATCH, SAMPLES, FIT = 4, 10, 5  # the second batch is divided, the third one filled up


def model(batch: int | str, *, lengths: bool) -> onnx.ModelProto:
    """Images behind each other, then steps in front of samples, and both as one axis."""
    inputs = {"x": (batch, STEPS, INPUTS, 2, 2)} | ({"lengths": (batch,)} if lengths else {})
    net = Net(inputs)
    h = net("Reshape", "x", np.array([-1, INPUTS, 2, 2]))
    h = net("Relu", net.conv(h, INPUTS, 4, name="conv"))
    h = net("Reshape", net("ReduceMean", h, axes=[2, 3], keepdims=0), np.array([-1, STEPS, 4]))
    h = net("MatMul", net("Transpose", h, perm=[1, 0, 2]), net.weight(4, 6), name="in")
    weights = [net.weight(1, HIDDEN, size, scale=0.4) for size in (6, HIDDEN)]
    more = ["", "lengths"] if lengths else []
    h = net("RNN", h, *weights, *more, hidden_size=HIDDEN, name="rnn")
    h = net("MatMul", net("Squeeze", h, np.array([1])), net.weight(HIDDEN, 6), name="out")
    h = net("Tanh", net("Reshape", net("Transpose", h, perm=[1, 0, 2]), np.array([-1, 6])))
    y = net.gemm(h, 6, 4, name="flat")
    return net.model(
        net("Reshape", y, np.array([-1, STEPS, 4])), types={"lengths": onnx.TensorProto.INT32}
    )


def data(*, lengths: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SAMPLES, STEPS, INPUTS, 2, 2)).astype(np.float32)
    own = rng.permutation(np.arange(SAMPLES) % STEPS + 1).astype(np.int32)
    return {"x": x} | ({"lengths": own} if lengths else {})


def job_of(analysis: Analysis, layer: Linear) -> Job:
    outputs = analysis.probe.shapes[layer.y][layer.y_axis]
    own = Epilogue(np.ones(outputs), np.zeros(outputs), layer.y)
    node = analysis.model.node(layer.node)
    return Job(layer, own, recurrence=recurrence(node, layer.node) if layer.recurrent else None)


def by_sample(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return what every layer gives of each sample, (n, channels), steps past its end left out."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    del whole.graph.output[:]
    names = ["conv_y", "in_y", "rnn_y", "out_y", "flat_y"]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    images, first, states, last, flat = run(whole, feed)
    images = np.moveaxis(images.reshape(SAMPLES, STEPS, 4, 2, 2), 2, -1)
    found = {
        "conv": images.reshape(SAMPLES, -1, 4),
        "in": np.swapaxes(first, 0, 1),
        "rnn": np.swapaxes(states[:, 0], 0, 1),
        "out": np.swapaxes(last, 0, 1),
        "flat": flat.reshape(SAMPLES, STEPS, 4),
    }
    ends = feed.get("lengths", np.full(SAMPLES, STEPS))
    rnn = [x[:end] for x, end in zip(found["rnn"], ends, strict=True)]
    return {node: list(x) for node, x in found.items()} | {"rnn": rnn}


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("batch", ["N", BATCH])
def test_rows_are_divided_by_sample_and_none_is_of_one_that_fills_a_batch(batch, lengths):
    proto, feed = model(batch, lengths=lengths), data(lengths=lengths)
    inputs = model_inputs(proto)
    samples = open_calibration(feed, inputs)
    analysis = analyse(proto, inputs, samples)
    jobs = [job_of(analysis, layer) for layer in analysis.flow.linears]
    assert [job.linear.node for job in jobs] == ["conv", "in", "rnn", "out", "flat"]
    pads = batch != "N"
    settings = SimpleNamespace(seed=0, positions=10**6)
    pair = SimpleNamespace(
        run=SimpleNamespace(settings=settings, analysis=analysis),
        original=analysis.model,
        probe=analysis.probe,
        kept={},
        batch=BATCH,
        pads=pads,
        calibration=samples,
        fit_samples=FIT,
    )
    sampler = Sampler(pair, jobs)
    stream = ActivationStream([samples], BATCH, pads, analysis.providers)
    names = list(dict.fromkeys(n for job in jobs for n in (*job.sampled, *job.observed)))
    batches = list(stream.run(analysis.model, names))
    given = sampler.collect(batches, jobs, sampler.input_rows)
    wanted = sampler.collect(batches, jobs, sampler.target_rows)
    expected = by_sample(model("N", lengths=lengths), feed)
    for job in jobs:
        node = job.linear.node
        if job.recurrence is not None:
            problem = sampler.join_steps(job, wanted[node])
            rows, fit = problem.after[0], problem.fit
            np.testing.assert_array_equal(given[node][2][0], rows)
        else:
            both = sampler.join(node, given[node], wanted[node])
            rows, fit = both.wanted[0], both.fit
            weight, bias = layer_weights(analysis.model, job.linear)
            made = both.x[0] @ weight_to_matrix(job.linear, weight)[0] + bias
            np.testing.assert_allclose(made, rows, atol=1e-5)
        for part, own in ((rows[:fit], slice(FIT)), (rows[fit:], slice(FIT, None))):
            want = np.concatenate(expected[node][own])
            assert part.shape == want.shape, node
            np.testing.assert_allclose(in_order(part), in_order(want), atol=1e-5, err_msg=node)
