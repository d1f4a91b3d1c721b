"""Streams in another basis: who may be, the same function, and the best order of coordinates."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from net import Net
from small_models import run, weights_of

from onnx_reap.data import synthetic_calibration
from onnx_reap.graph.analysis import Analysis, analyse, count_parameters
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.context import open_run
from onnx_reap.prune.low_rank.stream import Stream, change_basis, stream_ends, taken_over
from onnx_reap.prune.low_rank.streams import find_streams
from onnx_reap.solve.eigenbases import stream_basis


def analysed(model) -> Analysis:
    inputs = model_inputs(model, None)
    return analyse(model, inputs, synthetic_calibration(inputs, samples=4, seed=0))


def of_blocks(n: Net, between: str = "Identity", bias: bool = False) -> str:
    """Image -> a stream of 8 channels that a block adds to, something in it -> a wide layer."""
    h = n.norm(n.conv(n.block("x", 3, 12), 12, 8, 1, bias=bias), 8)
    h = n.node("Add", h, n.norm(n.conv(n.block(h, 8, 24), 24, 8, 1, bias=bias), 8))
    return n.head(n.block(n.node(between, h), 8, 16), 16, 5)


def dense(n: Net, op: str) -> str:
    def layer(x: str, cin: int, cout: int) -> str:
        if op == "Gemm":
            return n.gemm(x, cin, cout, alpha=0.5, beta=2.0)
        return n.node("Add", n.node("MatMul", x, n.random(cin, cout, scale=0.3)), n.random(cout))

    h = layer(n.node("Relu", layer(n.node("Flatten", "x"), 192, 20)), 20, 6)
    return layer(n.node("Relu", layer(h, 6, 18)), 18, 5)


def pooled(n: Net) -> str:
    h = n.conv(n.block("x", 3, 12), 12, 8)
    return n.head(n.node("AveragePool", h, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 8, 5)


MODELS = {
    "norm": of_blocks,
    "norm and bias": lambda n: of_blocks(n, bias=True),
    "Gemm": lambda n: dense(n, "Gemm"),
    "MatMul": lambda n: dense(n, "MatMul"),
    "pooled": pooled,
}


def streams(analysis: Analysis) -> dict:
    found = {
        g: stream_ends(analysis.model, analysis.flow, g, lambda _: None) for g in analysis.groups
    }
    return {group: ends for group, ends in found.items() if ends is not None}


@pytest.mark.parametrize("kind", MODELS)
def test_a_stream_in_another_basis_is_the_same_function(kind: str):
    n = Net({"x": ("N", 3, 8, 8)})
    model = n.model(MODELS[kind](n))
    before = analysed(model)
    found = streams(before)
    assert found
    out, rng, saved = before.copy(), np.random.default_rng(0), 0
    for group, ends in found.items():
        into = rng.standard_normal((group.width, group.width))
        saved += sum(taken_over(before.model, x, group.width) for x in ends.makers)
        change_basis(out, ends, Stream(group.name, into, np.linalg.inv(into)))
    changed = out.to_proto()
    x = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    (expected,), (got,) = run(model, {"x": x}), run(changed, {"x": x})
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert count_parameters(changed) == count_parameters(model) - saved
    assert [g.name for g in analysed(changed).groups] == [g.name for g in before.groups]


def wide(n: Net, behind: str) -> str:
    """A stream with something in it that a basis would change."""
    h = n.conv(n.block("x", 3, 12), 12, 8)
    if behind == "depthwise":
        h = n.conv(h, 8, 8, group=8)
    elif behind == "constant":
        h = n.node("Add", n.node("AveragePool", h, kernel_shape=[1, 1]), n.random(1, 8, 1, 1))
    elif behind == "MaxPool":
        h = n.node("MaxPool", h, kernel_shape=[2, 2])
    elif behind == "product":
        h = n.node("Mul", h, h)
    elif behind != "plain":
        h = n.node(behind, h)
    return n.head(h, 8, 5)


@pytest.mark.parametrize(
    "behind", ["Relu", "Sigmoid", "depthwise", "constant", "MaxPool", "product"]
)
def test_what_treats_channels_one_by_one_needs_them_as_they_are(behind: str):
    n = Net({"x": ("N", 3, 8, 8)})
    assert not streams(analysed(n.model(wide(n, behind))))
    n = Net({"x": ("N", 3, 8, 8)})
    assert streams(analysed(n.model(wide(n, "plain"))))


def test_layers_that_the_user_excludes_are_no_ends():
    n = Net({"x": ("N", 3, 8, 8)})
    found = analysed(n.model(of_blocks(n)))
    ((group, ends),) = streams(found).items()
    for end in (*ends.makers, *ends.readers):
        reason_to_keep = {end.node: "excluded"}.get
        assert stream_ends(found.model, found.flow, group, reason_to_keep) is None


def problem(seed: int = 0, layers: int = 3):
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)) for _ in range(layers)]
    reads = [rng.standard_normal((6, 4 + k)) for k in range(layers)]
    return [each - each.mean(0) for each in x], reads


def error(x: np.ndarray, read: np.ndarray, into: np.ndarray, rank: int) -> float:
    """Relative error of a layer that reads the first coordinates, fitted to them."""
    z, y = x @ into[:, :rank], x @ read
    return float(((z @ np.linalg.lstsq(z, y, rcond=None)[0] - y) ** 2).sum() / (y**2).sum())


def test_for_one_layer_the_coordinates_are_the_best_there_are():
    (x,), (read,) = problem(layers=1)
    into, back = stream_basis([x.T @ x / len(x)], [read])
    np.testing.assert_allclose(into @ back, np.eye(6), atol=1e-9)
    singular = np.linalg.svd(x @ read, compute_uv=False) ** 2
    for rank in range(1, 5):
        least = singular[rank:].sum() / singular.sum()
        assert error(x, read, into, rank) == pytest.approx(least, abs=0.01)


def test_for_several_layers_they_are_better_than_channels_and_than_principal_components():
    better = []
    for seed in range(8):
        x, reads = problem(seed)
        into, _ = stream_basis([each.T @ each / len(each) for each in x], reads)
        principal = np.linalg.eigh(sum(each.T @ each for each in x))[1][:, ::-1]
        worst = min(
            sum(
                error(a, b, np.eye(6)[:, np.r_[:k, k + 1 : 6]], 5)
                for a, b in zip(x, reads, strict=True)
            )
            for k in range(6)
        )
        ours, theirs = (
            sum(error(a, b, basis, 5) for a, b in zip(x, reads, strict=True))
            for basis in (into, principal)
        )
        better.append((ours < theirs, ours < worst))
    assert np.mean(better, axis=0).min() >= 0.75


@pytest.mark.parametrize("dead", ["data", "weights"])
def test_streams_without_a_signal_have_a_basis(dead: str):
    gram, read = np.eye(3), np.ones((3, 2))
    into, back = stream_basis(*(([0 * gram], [read]) if dead == "data" else ([gram], [0 * read])))
    np.testing.assert_allclose(into @ back, np.eye(3), atol=1e-9)


def test_another_array_library_gives_the_same():
    x, reads = problem()
    grams = [each.T @ each / len(each) for each in x]
    device = array_api_strict.Device("device1")
    there = [[array_api_strict.asarray(m, device=device) for m in each] for each in (grams, reads)]
    into, back = stream_basis(*there)
    assert into.device == back.device == device
    ours = stream_basis(grams, reads)
    np.testing.assert_allclose(
        np.asarray(array_api_strict.asarray(into, device=array_api_strict.Device("CPU_DEVICE"))),
        ours[0], atol=1e-9,
    )  # fmt: skip


@pytest.mark.parametrize("corner", [slice(0, 4), slice(4, 8)])
def test_readers_with_strides_are_observed_everywhere(corner: slice):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.conv("x", 3, 6, 1, bias=False)
    model = n.model(n.head(n.node("Relu", n.conv(h, 6, 9, 1, strides=[2, 2])), 9, 5))
    data = np.zeros((64, 3, 8, 8), np.float32)
    data[:, :, corner, corner] = np.random.default_rng(0).standard_normal((64, 3, 4, 4))
    settings = Settings.make({"low_rank": "also"})
    (stream,) = find_streams(open_run(model, data, settings, NoProgress()))
    seen = np.tensordot(weights_of(model)[n.nodes[0].input[1]][:, :, 0, 0], data, (1, 1))
    z = np.moveaxis(seen, 0, -1).reshape(-1, 6) @ stream.into
    assert (z[:, 3:] ** 2).sum() < 1e-6 * (z**2).sum()  # three inputs make three axes


def test_a_reader_of_large_outputs_counts_no_more_than_another():
    x, reads = problem(layers=2)
    grams = [each.T @ each / len(each) for each in x]
    into, _ = stream_basis(grams, reads)
    other, _ = stream_basis(grams, [reads[0], 100 * reads[1]])
    np.testing.assert_allclose(np.abs(other / into), np.abs(other / into)[0, 0], rtol=1e-6)
