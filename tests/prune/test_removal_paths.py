"""Removal paths from captured moments, against least squares on the captured rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from small_models import images, run, weights_of

import onnx_reap.measure.activations.moments as moments
import onnx_reap.prune.removal_paths as paths
from onnx_reap.data import Calibration, open_calibration
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.activations.moments import capture_moments
from onnx_reap.measure.activations.rows import input_rows, weight_to_matrix
from onnx_reap.measure.sensitivity.output_metric import OutputMetric
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.options import Settings
from onnx_reap.solve.backend import Backend

BACKEND = Backend.cpu()
TINY = 1e-9  # damping so weak that plain least squares is the reference


def analysed(model, data) -> tuple[Analysis, Calibration]:
    inputs = model_inputs(model)
    samples = open_calibration(data, inputs)
    return analyse(model, inputs, samples), samples


def path_of(
    analysis: Analysis, samples: Calibration, number: int = 0, space: str = "patch", **arguments
):
    group = analysis.groups[number]
    taps = paths.find_taps(analysis, analysis.groups, space)
    moments = capture_moments(
        analysis,
        taps,
        samples,
        Settings(positions=10_000),
        total=len(samples),
        to_device=BACKEND.to_device,
    )
    by_node = {tap.linear.node: tap for tap in taps}
    return paths.group_path(
        group, analysis.flow, analysis.model, by_node, moments, BACKEND, **arguments
    )


def all_rows(analysis: Analysis, samples: Calibration, node: str) -> tuple[np.ndarray, np.ndarray]:
    """Input patches of a layer at every output position, and its weight: (g, n, D), (g, D, O)."""
    linear = next(found for found in analysis.flow.linears if found.node == node)
    feed = next(iter(samples.batches(len(samples))))
    x, y = run(with_outputs(analysis.model.to_proto(), [linear.x, linear.y]), feed)
    total = int(np.prod(y.shape[2:])) if linear.kernel else y[..., 0].size
    at = np.broadcast_to(np.arange(total), (len(x) if linear.kernel else 1, total))
    weight = weight_to_matrix(linear, analysis.model.constants()[linear.weight].values)
    return input_rows(linear, x, y.shape, at), weight


def refit_error(x: np.ndarray, weight: np.ndarray, columns: np.ndarray) -> float:
    """Mean squared error of the best fit to x @ weight without some columns, intercept included."""
    x = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    y = x @ weight
    rest = np.delete(x, columns, axis=1)
    fit = rest @ np.linalg.lstsq(rest, y, rcond=None)[0]
    return float(np.square(y - fit).sum() / len(x))


@pytest.fixture(autouse=True)
def weak_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "DAMPING", TINY)
    monkeypatch.setattr(moments, "MOST_ROWS", 10**9)  # every position, to compare with all rows


def branches():
    """One group with two convolutions of different kernels and scales behind it."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    a = n.norm(n.conv(h, 6, 5, 3, bias=False), 5)
    b = n.conv(h, 6, 5, 1)
    return n.model(n.node("GlobalAveragePool", n.node("Add", a, b)))


def test_errors_are_those_of_least_squares_summed_over_consumers():
    analysis, samples = analysed(branches(), images(40, 6))
    (group,) = analysis.groups[:1]
    assert group.consumers == ("conv2", "conv4")
    path, variance = path_of(analysis, samples, steps=5)
    weights = weights_of(analysis.light.whole())
    gamma, _, _, var = (weights[n] for n in analysis.light.whole().graph.node[3].input[1:])
    scales = {"conv2": gamma / np.sqrt(var + 1e-5), "conv4": np.ones(5)}
    total = 0.0
    for node, taps in (("conv2", 9), ("conv4", 1)):
        (x,), (weight,) = all_rows(analysis, samples, node)
        total += np.var((x @ weight) * scales[node], axis=0).sum()
        for step in range(5):
            gone = path.order[: step + 1]
            columns = (gone[:, None] * taps + np.arange(taps)).ravel()
            path.errors[step] -= refit_error(x, weight * scales[node], columns)
    assert variance == pytest.approx(total, rel=1e-4)  # rows are float32
    np.testing.assert_allclose(path.errors, 0, atol=1e-4 * total)


def test_a_given_order_is_followed_and_the_best_one_costs_no_more_at_first():
    analysis, samples = analysed(branches(), images(40, 6))
    best, _ = path_of(analysis, samples, steps=5)
    for first in range(6):
        order = [first, *(u for u in range(6) if u != first)]
        given, _ = path_of(analysis, samples, steps=5, order=order)
        assert given.order.tolist() == order[:5]
        assert given.errors[0] >= best.errors[0] * (1 - 1e-9)


def test_a_duplicate_channel_goes_first_and_free(monkeypatch: pytest.MonkeyPatch):
    # Products of float32 rows are off by 1e-7: a singular matrix takes more damping than that.
    monkeypatch.setattr(paths, "DAMPING", 1e-6)
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    model = n.model(n.head(n.conv(h, 6, 4), 4, 3))
    weight, bias = n.weights["c0"], n.weights["c1"]
    weight[4], bias[4] = weight[1] * 2, bias[1] * 2
    for tensor in model.graph.initializer:
        if tensor.name in ("c0", "c1"):
            tensor.raw_data = n.weights[tensor.name].tobytes()
    analysis, samples = analysed(model, images(40, 6))
    path, variance = path_of(analysis, samples, steps=2)
    assert path.order[0] in (1, 4)
    assert path.errors[0] < 1e-5 * variance < path.errors[1]  # float32 rows, weak damping


def test_each_part_of_a_grouped_consumer_is_a_consumer_of_its_own():
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 6))
    model = n.model(n.head(n.conv(h, 6, 4, group=2), 4, 3))
    analysis, samples = analysed(model, images(40, 6))
    group = analysis.groups[0]
    assert group.step == 2
    path, _ = path_of(analysis, samples, steps=4)
    parts = np.asarray(group.parts)[path.order]
    assert all(set(parts[i : i + 2]) == {0, 1} for i in (0, 2))
    x, weight = all_rows(analysis, samples, "conv2")
    expected = 0.0
    for g in range(2):
        gone = path.order[path.order // 3 == g] - 3 * g
        columns = (gone[:, None] * 9 + np.arange(9)).ravel()
        expected += refit_error(x[g], weight[g], columns)
    assert path.errors[-1] == pytest.approx(expected, rel=1e-3)  # float32 rows


def test_channels_that_nobody_reads_cost_nothing():
    n = Net({"x": ("N", 4)})
    h = n.gemm("x", 4, 6)
    sizes = n.node("Shape", h)
    y = n.node("ConstantOfShape", n.node("Slice", sizes, n.constant([0]), n.constant([1])))
    analysis, samples = analysed(n.model(y), images(8, 2)[:, 0].reshape(8, 4))
    if not analysis.groups:
        pytest.skip("the flow freezes them")
    path, variance = path_of(analysis, samples, steps=3)
    assert path.order.tolist() == [0, 1, 2] and not path.errors.any() and variance == 0
    path, _ = path_of(analysis, samples, steps=2, order=[5, 3, 1])
    assert path.order.tolist() == [5, 3]


def test_channels_that_nobody_reads_go_in_equal_numbers_from_each_part():
    n = Net({"x": ("N", 3, 6, 6)})
    n.conv(n.conv("x", 3, 4), 4, 6, group=2)
    analysis, samples = analysed(n.model(n.head(n.conv("x", 3, 4), 4, 3)), images(8, 6))
    number = next(i for i, group in enumerate(analysis.groups) if group.producers == ("conv1",))
    assert analysis.groups[number].parts == (0, 0, 0, 1, 1, 1)
    path, _ = path_of(analysis, samples, number, steps=4)
    assert path.order.tolist() == [0, 3, 1, 4]


# Very wide layers


def wide(taps_independent: bool):
    """Flatten 6 channels of 2 x 2 into a Gemm: 24 columns, 4 a channel."""
    n = Net({"x": ("N", 6, 2, 2)})
    h = n.conv("x", 6, 6, 1, bias=False)
    model = n.model(n.gemm(n.node("Flatten", h), 24, 5))
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((6, 6))
    x = rng.standard_normal((3000, 6, 2, 2 if taps_independent else 1))
    if not taps_independent:
        x = np.repeat(np.repeat(x[:, :, :1], 2, 2), 2, 3)
    return model, np.einsum("oc,nchw->nohw", mixing, x).astype(np.float32)


@pytest.mark.parametrize("independent", [True, False])
def test_very_wide_layers_share_one_coefficient_a_channel(monkeypatch, independent):
    """Exact where a channel's positions are independent and alike.

    Where they all are the same number, errors of positions add up in the output, or cancel: which,
    the weights tell, not the moments. The order should hardly suffer.
    """
    model, data = wide(independent)
    analysis, samples = analysed(model, data)
    number = next(i for i, g in enumerate(analysis.groups) if "gemm" in g.consumers[0])
    exact, exact_variance = path_of(analysis, samples, number, steps=5)
    monkeypatch.setattr(paths, "WIDEST", 23)
    (tap,) = paths.find_taps(analysis, analysis.groups)
    assert tap.fold is not None and tap.width == 6
    shared, variance = path_of(analysis, samples, number, steps=5, order=exact.order.tolist())
    if independent:
        np.testing.assert_allclose(shared.errors, exact.errors, rtol=0.1)  # 3,000 samples
        assert variance == pytest.approx(exact_variance, rel=0.1)
    chosen, _ = path_of(analysis, samples, number, steps=3)
    assert len(set(chosen.order) & set(exact.order[:3])) >= (3 if independent else 2)


def test_in_the_space_of_channels_whole_feature_maps_are_reconstructed():
    """The first error is |W_j|^2 times what the other feature maps leave of map j."""
    analysis, samples = analysed(branches(), images(40, 6))
    weights = weights_of(analysis.light.whole())
    gamma, _, _, var = (weights[n] for n in analysis.light.whole().graph.node[3].input[1:])
    scales = {"conv2": gamma / np.sqrt(var + 1e-5), "conv4": np.ones(5)}
    expected = np.zeros(6)
    for node, taps in (("conv2", 9), ("conv4", 1)):
        (x,), (weight,) = all_rows(analysis, samples, node)
        maps = x.reshape(len(x), 6, taps).transpose(0, 2, 1).reshape(-1, 6)
        for j in range(6):
            norm = np.square((weight * scales[node]).reshape(6, taps, -1)[j]).sum()
            expected[j] += norm * refit_error(maps, np.eye(6)[:, [j]], np.array([j]))
    path, _ = path_of(analysis, samples, space="channel", steps=1)
    assert path.order[0] == expected.argmin()
    for j in range(6):
        path, _ = path_of(analysis, samples, space="channel", steps=1, order=[j])
        assert path.errors[0] == pytest.approx(expected[j], rel=1e-3)  # rows are float32


def test_layers_with_frozen_columns_are_not_folded(monkeypatch):
    monkeypatch.setattr(paths, "WIDEST", 3)
    n = Net({"x": ("N", 3, 6, 6)})
    both = n.node("Concat", n.conv("x", 3, 6), "x", axis=1)
    analysis, _ = analysed(n.model(n.head(n.conv(both, 9, 4), 4, 3)), images(4, 6))
    taps = {tap.linear.node: tap for tap in paths.find_taps(analysis, analysis.groups)}
    assert taps["conv2"].fold is None and taps["conv2"].columns == 81


def test_layers_of_one_weight_are_observed_as_one():
    """Their errors add up, and what makes up for the channels that go is one weight."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.node("Relu", n.conv("x", 3, 8))
    weight = n.random(5, 8, 1, 1, name="w")
    both = [n.node("Conv", t, weight) for t in (h, n.node("Sigmoid", h))]
    analysis, samples = analysed(n.model(n.node("Concat", *both, axis=1)), images(12, size=6))
    (tap,) = paths.find_taps(analysis, analysis.groups)
    path = path_of(analysis, samples, steps=1)[0]
    names = [layer.x for layer in tap.layers]
    assert len(names) == 2
    given = run(with_outputs(analysis.model.to_proto(), names), {"x": images(12, size=6)})
    rows = np.concatenate([x.transpose(0, 2, 3, 1).reshape(-1, 8) for x in given])
    rows = rows.astype(np.float64) - rows.mean(0)
    wanted = rows @ weights_of(analysis.model.to_proto())["w"].reshape(5, 8).T
    left = np.delete(rows, path.order[0], axis=1)
    miss = wanted - left @ np.linalg.lstsq(left, wanted, rcond=None)[0]
    np.testing.assert_allclose(path.errors[0], 2 * np.square(miss).sum() / len(rows), rtol=1e-3)


def test_a_layer_that_was_not_observed_does_not_cost_nothing():
    n = Net({"x": ("N", 3, 6, 6)})
    model = n.model(n.head(n.block(n.block("x", 3, 8), 8, 6), 6, 2))
    analysis, _ = analysed(model, images(8, 6))
    (group, *_) = analysis.groups
    with pytest.raises(KeyError):
        paths.group_path(group, analysis.flow, analysis.model, {}, {}, BACKEND, steps=2)


def one_consumer():
    """A convolution behind the channels, with five outputs."""
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.conv(n.node("Relu", n.conv("x", 3, 6)), 6, 5, 1)
    return n.model(n.node("GlobalAveragePool", h))


def test_a_metric_of_outputs_tells_the_order_and_errors_remain_those_of_all_outputs():
    analysis, samples = analysed(one_consumer(), images(40, 6))
    (node,) = analysis.groups[0].consumers
    only = np.zeros((1, 5, 5))
    only[0, 4, 4] = 3.0
    metrics = {node: OutputMetric(only, 10**12)}
    found, variance = path_of(analysis, samples, steps=5, metrics=metrics)
    (x,), (weight,) = all_rows(analysis, samples, node)
    gone: list[int] = []
    for unit in found.order:  # by brute force
        errors = {
            other: refit_error(x, weight[:, 4:], np.array([*gone, other]))
            for other in range(6)
            if other not in gone
        }
        assert errors[unit] <= min(errors.values()) * (1 + 1e-4)
        gone.append(int(unit))
    plain, same = path_of(analysis, samples, steps=5)
    assert found.order.tolist() != plain.order.tolist()
    given, _ = path_of(analysis, samples, steps=5, order=gone)
    np.testing.assert_array_equal(found.errors, given.errors)
    assert variance == same


def test_a_metric_that_some_consumer_lacks_and_a_given_order_change_nothing():
    analysis, samples = analysed(branches(), images(40, 6))
    metrics = {"conv2": OutputMetric(np.diag([1.0, 0, 0, 0, 0])[None], 10**9)}
    plain, _ = path_of(analysis, samples, steps=5)
    found, _ = path_of(analysis, samples, steps=5, metrics=metrics)
    assert found.order.tolist() == plain.order.tolist()
    both = metrics | {"conv4": metrics["conv2"]}
    found, _ = path_of(analysis, samples, steps=5, metrics=both, order=range(6))
    assert found.order.tolist() == [*range(5)]
    found, _ = path_of(analysis, samples, steps=5, metrics=both)
    assert found.order.tolist() != plain.order.tolist()


def test_a_metric_serves_layers_that_are_folded(monkeypatch):
    monkeypatch.setattr(paths, "WIDEST", 6)
    n = Net({"x": ("N", 3, 6, 6)})
    h = n.conv(n.node("Relu", n.conv("x", 3, 6)), 6, 5, 3)
    analysis, samples = analysed(n.model(n.node("GlobalAveragePool", h)), images(40, 6))
    (node,) = analysis.groups[0].consumers
    assert paths.find_taps(analysis, analysis.groups)[0].fold is not None
    orders = {
        out: path_of(
            analysis,
            samples,
            steps=5,
            metrics={node: OutputMetric(np.eye(5)[None] * (np.arange(5) == out), 10**12)},
        )[0].order.tolist()
        for out in range(5)
    }
    assert len({tuple(order) for order in orders.values()}) > 2
