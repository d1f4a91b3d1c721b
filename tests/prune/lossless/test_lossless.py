"""Channels that go without loss: exactly those that were planted."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from onnx import numpy_helper
from small_models import chain, images

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import CheckError, ReapError, UsageError
from onnx_reap.options import ReplayKeywords

FASHION = Path(__file__).parent.parents[2] / "models" / "fashion_resnet.onnx"
SAME = 1e-5  # of the largest output: sums in another order, at all scales of the inputs


def widths(result) -> dict[str, int]:
    return {g.name: g.after for g in result.report.groups}


def counts(result) -> tuple[int, int]:
    found = result.report.lossless
    assert found.difference <= SAME
    return found.dead, found.duplicate


def thinned(model: onnx.ModelProto, **settings):
    return onnx_reap.reap(model, lossless=True, **settings)


def start(batch: int | str = "N", size: int = 8, seed: int = 0) -> Net:
    return Net({"x": (batch, 3, size, size)}, seed)


class Layers:
    """Two convolutions with a chosen middle; weights `w`, `b` of the first can be planted."""

    def __init__(self, channels: int = 8):
        self.net = start()
        self.y = self.net.conv("x", 3, channels, 3)
        self.w, self.b = self.net.weights["c0"], self.net.weights["c1"]
        self.channels = channels

    def finish(
        self, k: int = 3, pads: int = 1, group: int = 1, relu: bool = True
    ) -> onnx.ModelProto:
        net = deepcopy(self.net)
        y = net.node("Relu", self.y) if relu else self.y
        y = net.conv(y, self.channels, 6, k, pads=[pads] * 4, group=group)
        return net.model(net.head(y, 6, 5))


def test_dead_and_duplicate_channels_go():
    layers = Layers()
    layers.w[1], layers.b[1] = 0, 0  # dead
    layers.w[2], layers.b[2] = 0, -1  # dead: Relu makes it 0
    layers.w[4], layers.b[4] = layers.w[3], layers.b[3]
    layers.w[6], layers.b[6] = layers.w[3], layers.b[3]
    result = thinned(layers.finish())
    assert counts(result) == (2, 2)
    assert widths(result)["conv0"] == 4
    assert result.plan.groups[0].kept == (0, 3, 5, 7)


@pytest.mark.parametrize(("pads", "dead"), [(0, 1), (1, 0)])
def test_constants_are_folded_where_no_padding_is_seen(pads, dead):
    layers = Layers()
    layers.w[1], layers.b[1] = 0, 0.7
    assert counts(thinned(layers.finish(pads=pads))) == (dead, 0)


def test_equal_constants_in_front_of_padding_are_duplicates():
    layers = Layers()
    layers.w[1:3], layers.b[1:3] = 0, 0.7
    assert counts(thinned(layers.finish(pads=1))) == (0, 1)


def test_noise_is_dead():
    layers = Layers()
    layers.w[1] *= 1e-9
    layers.b[1] = 0
    assert counts(thinned(layers.finish())) == (1, 0)
    layers.w[1] *= 1e4
    assert counts(thinned(layers.finish())) == (0, 0)


def test_a_scale_of_zero_behind_a_layer_is_dead():
    net = start()
    y = net.node("Relu", net.norm(net.conv("x", 3, 8, bias=False), 8))
    net.weights["c1"][[2, 5]], net.weights["c2"][[2, 5]] = 0, (0.0, 0.4)
    y = net.conv(y, 8, 6, 1)
    result = thinned(net.model(net.head(y, 6, 5)))
    assert counts(result) == (2, 0)


def test_a_scale_of_zero_behind_an_activation_is_dead():
    net = start()
    scales = np.ones((8, 1, 1))
    scales[[2, 5]] = 0
    y = net.node("Mul", net.node("Relu", net.conv("x", 3, 8)), net.constant(scales))
    y = net.conv(y, 8, 6, 1)
    assert counts(thinned(net.model(net.head(y, 6, 5)))) == (2, 0)


def test_duplicates_behind_normalisation_have_its_parameters_too():
    net = start()
    y = net.node("Relu", net.norm(net.conv("x", 3, 8, bias=False), 8))
    net.weights["c0"][[2, 5, 7]] = net.weights["c0"][1]
    for name in ("c1", "c2", "c3", "c4"):
        net.weights[name][[2, 5]] = net.weights[name][1]
    net.weights["c2"][5] += 0.1
    y = net.conv(y, 8, 6, 3)
    assert counts(thinned(net.model(net.head(y, 6, 5)))) == (0, 1)


def test_duplicates_make_duplicates_behind_them():
    net = start()
    y = net.node("Relu", net.conv("x", 3, 8))
    y = net.node("Relu", net.conv(y, 8, 8))
    y = net.conv(y, 8, 6)
    a, p, b, q = (net.weights[f"c{i}"] for i in range(4))
    a[1], p[1] = a[0], p[0]
    b[3], q[3] = b[2], q[2]
    b[3, 0] += 0.2  # what one copy weighs more the other does less
    b[3, 1] -= 0.2
    result = thinned(net.model(net.head(y, 6, 5)))
    assert counts(result) == (0, 2)
    assert [*widths(result).values()][:2] == [7, 7]


@pytest.mark.parametrize("relu", [True, False])
def test_combinations_of_channels_stay(relu):
    layers = Layers()
    layers.w[7], layers.b[7] = 2.5 * layers.w[0], 2.5 * layers.b[0]
    layers.w[5] = 0.5 * layers.w[1] - 0.25 * layers.w[2]
    layers.b[5] = 0.5 * layers.b[1] - 0.25 * layers.b[2]
    assert counts(thinned(layers.finish(relu=relu))) == (0, 0)


def _stream(net: Net):
    y = net.conv("x", 3, 8)
    for _ in range(2):
        inner = net.node("Relu", net.conv(y, 8, 4))
        y = net.node("Add", y, net.conv(inner, 4, 8))
    return y


def test_a_residual_stream_asks_all_producers():
    net = start()
    y = net.head(net.node("Relu", _stream(net)), 8, 5)
    producers = [name for name in net.weights if net.weights[name].shape[:1] == (8,)]
    assert counts(thinned(net.model(y))) == (0, 0)
    for name in producers:
        net.weights[name][3] = net.weights[name][6]
        net.weights[name][1] = 0
    assert counts(thinned(net.model(y))) == (1, 1)
    net.weights[producers[2]][3] += 0.1
    assert counts(thinned(net.model(y))) == (1, 0)


def test_depthwise_kernels_count():
    net = start()
    y = net.node("Relu", net.conv("x", 3, 8))
    y = net.node("Relu", net.conv(y, 8, 8, group=8))
    y = net.conv(y, 8, 6, 1)
    y = net.head(y, 6, 5)
    for name in ("c0", "c1"):
        net.weights[name][[2, 3]] = net.weights[name][1]
    for name in ("c2", "c3"):
        net.weights[name][2] = net.weights[name][1]
    net.weights["c2"][5] = 0  # what holds its bias whatever comes
    assert counts(thinned(net.model(y))) == (1, 1)


def test_groups_keep_equally_many():
    layers = Layers(channels=8)
    for copy, of in ((1, 0), (2, 0), (5, 4), (7, 3)):  # 7 and 3 are read by different parts
        layers.w[copy], layers.b[copy] = layers.w[of], layers.b[of]
    result = thinned(layers.finish(group=2))
    assert counts(result) == (0, 2)
    assert widths(result)["conv0"] == 6


def test_a_flattened_map_is_summed_place_by_place():
    net = start(size=4)
    y = net.node("Flatten", net.node("Relu", net.conv("x", 3, 8)))
    y = net.node("Relu", net.gemm(y, 128, 10))
    y = net.gemm(y, 10, 5)
    w, b = net.weights["c0"], net.weights["c1"]
    w[4], b[4] = w[3], b[3]
    w[5], b[5] = 0, 0.3
    result = thinned(net.model(y))
    assert counts(result) == (1, 1)
    assert widths(result)["conv0"] == 6


def test_what_is_concatenated_twice_is_merged_twice():
    net = start()
    a = net.node("Relu", net.conv("x", 3, 4))
    y = net.conv(net.node("Concat", a, net.conv("x", 3, 4), a, axis=1), 12, 6)
    y = net.head(y, 6, 5)
    net.weights["c0"][2], net.weights["c1"][2] = net.weights["c0"][1], net.weights["c1"][1]
    assert counts(thinned(net.model(y))) == (0, 1)


def test_what_moves_differently_is_no_duplicate():
    """The same channel, forwards and backwards."""
    net = start()
    y = net.node("Relu", net.conv("x", 3, 4))
    ends = [net.constant(np.array([v])) for v in (-1, -(2**31), 3, -1)]
    y = net.node("Add", y, net.node("Slice", y, *ends))
    model = net.model(net.head(net.conv(y, 4, 6), 6, 5))
    assert counts(thinned(model)) == (0, 0)


def test_a_pixel_shuffle_of_equal_channels():
    net = start()
    y = net.node("DepthToSpace", net.node("Relu", net.conv("x", 3, 16)), blocksize=2, mode="CRD")
    y = net.head(net.conv(y, 4, 6), 6, 5)
    for name in ("c0", "c1"):
        net.weights[name][4:8] = net.weights[name][:4]
        net.weights[name][8:12] = net.weights[name][3::-1]  # in another order
    assert counts(thinned(net.model(y))) == (0, 1)


@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_read_channels(directions):
    net = start()
    y = net.node("Relu", net.conv("x", 3, 8))
    y = net.node("Transpose", net.node("ReduceMax", y, axes=[2], keepdims=0), perm=[2, 0, 1])
    weights = [net.random(directions, 12, size) for size in (8, 12)]
    direction = "bidirectional" if directions == 2 else "forward"
    _, y = net.node("RNN", y, *weights, outputs=2, hidden_size=12, direction=direction)
    net.weights["c0"][[1, 4]], net.weights["c1"][[1, 4]] = 0, 0
    net.weights["c0"][5], net.weights["c1"][5] = net.weights["c0"][2], net.weights["c1"][2]
    assert counts(thinned(net.model(y))) == (2, 1)


def test_what_nobody_reads_is_dead():
    net = start()
    y = net.conv(net.node("Relu", net.conv("x", 3, 8)), 8, 6)
    y = net.head(y, 6, 5)
    net.weights["c2"][:, 3] = 0
    assert counts(thinned(net.model(y))) == (1, 0)


def test_what_only_unread_channels_read_is_dead_too():
    net = start()
    y = net.node("Relu", net.conv(net.node("Relu", net.conv("x", 3, 8)), 8, 8))
    y = net.head(net.conv(y, 8, 6), 6, 5)
    net.weights["c2"][np.arange(8) != 3, 5] = 0  # channel 3 alone reads 5,
    net.weights["c4"][:, 3] = 0  # and nobody reads 3
    assert counts(thinned(net.model(y))) == (2, 0)


def test_layers_that_share_their_weights():
    """Both absorb the same; constants, which their biases would have to take, stay."""
    net = start()
    first = net.node("Relu", net.conv("x", 3, 8))
    weight, bias = net.random(6, 8, 1, 1), net.random(6)
    ends = [
        net.node("Conv", y, weight, bias)
        for y in (first, net.node("MaxPool", first, kernel_shape=[1, 1]))
    ]
    y = net.head(net.node("Relu", net.node("Add", *ends)), 6, 5)
    net.weights["c0"][3], net.weights["c1"][3] = net.weights["c0"][1], net.weights["c1"][1]
    net.weights["c0"][4], net.weights["c1"][4] = 0, 0.5
    result = thinned(net.model(y))
    assert counts(result) == (0, 1)
    tensors = [t for t in result.model.graph.initializer if t.dims[:2] == [6, 7]]
    assert len(tensors) == 1


def test_a_dead_group_keeps_one():
    layers = Layers()
    layers.w[:], layers.b[:] = 0, 0
    result = thinned(layers.finish())
    assert widths(result)["conv0"] == 1


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_a_dead_branch_vanishes(bias):
    net = start()
    stem = net.node("Relu", net.conv("x", 3, 8))
    y = net.node("Relu", net.conv(net.node("Relu", net.conv(stem, 8, 4)), 4, 6, 1))
    y = net.node("Add", stem, net.conv(y, 6, 8, 1))
    y = net.head(net.node("Relu", y), 8, 5)
    net.weights["c4"][:], net.weights["c5"][:] = 0, bias
    result = thinned(net.model(y))
    assert widths(result) == {"conv0": 8, "conv2": 0, "conv4": 0}
    assert counts(result) == (10, 0)
    assert len(result.model.graph.node) < 10


def test_nothing_to_remove_changes_nothing():
    model = chain()
    result = thinned(model)
    assert counts(result) == (0, 0)
    assert result.report.lossless.difference == 0
    assert any("nothing to remove" in note for note in result.report.notes)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_same_file_each_time():
    layers = Layers()
    layers.w[5] = 0.5 * layers.w[1] - 0.25 * layers.w[2]
    layers.w[6], layers.b[6] = layers.w[2], layers.b[2]
    model = layers.finish(relu=False, pads=0)
    first, second = (thinned(model).model.SerializeToString() for _ in range(2))
    assert first == second


def test_layers_that_read_nothing_of_it_stay_as_they_are():
    net = start()
    y = net.node("Relu", net.conv("x", 3, 8))
    y = net.node("Relu", net.conv(y, 8, 8))
    y = net.head(net.conv(y, 8, 6), 6, 5)
    net.weights["c0"][1], net.weights["c1"][1] = net.weights["c0"][0], net.weights["c1"][0]
    result = thinned(net.model(y))
    assert counts(result) == (0, 1)
    after = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert np.array_equal(after["c4"], net.weights["c4"])


def test_a_wrong_removal_is_no_file(monkeypatch, tmp_path):
    layers = Layers()
    layers.w[4], layers.b[4] = layers.w[3], layers.b[3]
    onnx.save(layers.finish(), tmp_path / "in.onnx")
    monkeypatch.setattr("onnx_reap.prune.lossless.trim.absorb", lambda model, absorbed: None)
    with pytest.raises(CheckError, match="changed, though nothing was to be lost"):
        thinned(tmp_path / "in.onnx")
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--lossless", "-q"]) == 3
    assert not (tmp_path / "out.onnx").exists()


def test_command(tmp_path, capsys):
    layers = Layers()
    layers.w[4], layers.b[4] = layers.w[3], layers.b[3]
    onnx.save(layers.finish(), tmp_path / "in.onnx")
    line = ["in.onnx", "out.onnx", "--report", "report.json"]
    line = [str(tmp_path / part) if "." in part else part for part in line]
    assert main([*line, "--lossless"]) == 0
    assert "0 dead and 1 duplicate channels" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["lossless"]["duplicate"] == 1
    assert report["after"]["macs"] < report["before"]["macs"]
    assert main([str(tmp_path / "out.onnx"), str(tmp_path / "again.onnx"), "--lossless"]) == 0
    assert "nothing to remove" in capsys.readouterr().err


@pytest.mark.parametrize(
    "other", [{"target_macs": 0.5}, {"ratio": 0.5}, {"max_drop": 0.01}, {"joint_refit": 3}]
)
def test_budgets_and_methods_contradict(other):
    with pytest.raises(UsageError, match="--lossless"):
        thinned(chain(), **other)
    name, value = next(iter(other.items()))
    flag = "--" + name.replace("_", "-")
    assert main(["in.onnx", "out.onnx", "--lossless", flag, str(value)]) == 2


@pytest.mark.parametrize("name", ReplayKeywords.__annotations__)
def test_how_models_are_run_is_no_contradiction(name):
    values = {"provider": "cpu", "threads": 1, "custom_op_library": []}
    values["input_shapes"] = {"x": (1, 3, 8, 8)}
    thinned(chain(), **{name: values[name]})


def test_a_library_of_operators_can_be_named(tmp_path, capsys):
    onnx.save(chain(), tmp_path / "in.onnx")
    line = [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--lossless"]
    assert main([*line, "--custom-op-library", str(tmp_path / "no.so")]) == 1
    assert "--custom-op-library" in capsys.readouterr().err


def test_data_judges_the_result_and_globs_hold():
    layers = Layers()
    layers.w[4], layers.b[4] = layers.w[3], layers.b[3]
    model = layers.finish()
    result = onnx_reap.reap(model, images(8), lossless=True)
    assert counts(result) == (0, 1)
    assert result.report.held_out.samples == 8
    assert result.report.held_out.output_error[model.graph.output[0].name] < SAME**2
    assert counts(thinned(model, exclude="conv0")) == (0, 0)
    with pytest.raises(ReapError, match="matches no node"):
        thinned(model, exclude="nothing*")


@pytest.mark.parametrize(("auto_pad", "dead"), [("SAME_UPPER", 0), ("VALID", 1)])
def test_padding_that_depends_on_the_size_counts_as_padding(auto_pad, dead):
    """2 x 2 windows pad odd sizes only."""
    net = Net({"x": ("N", 3, "H", "W")})
    y = net.node("Relu", net.conv("x", 3, 8))
    net.weights["c0"][2], net.weights["c1"][2] = 0, 0.4
    weight = net.random(6, 8, 2, 2)
    y = net.node("Conv", y, weight, strides=[2, 2], auto_pad=auto_pad)
    model = net.model(net.head(net.node("Relu", y), 6, 5))
    assert counts(thinned(model, input_shapes={"x": (1, 3, 8, 8)})) == (dead, 0)


@pytest.mark.parametrize(("op", "dead"), [("MaxPool", 1), ("AveragePool", 0)])
def test_constants_behind_pools_that_round_up(op, dead):
    net = start(size=7)
    y = net.node("Relu", net.conv("x", 3, 8))
    net.weights["c0"][2], net.weights["c1"][2] = 0, 0.4
    y = net.node(op, y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    assert counts(thinned(net.model(net.head(net.conv(y, 8, 6, 1), 6, 5)))) == (dead, 0)


@pytest.mark.parametrize("name", ["c0", "c1"])
def test_what_is_not_finite_is_not_followed(name):
    net = start()
    y = net.head(net.conv(net.node("Relu", net.conv("x", 3, 8)), 8, 6), 6, 5)
    net.weights[name][2] = np.nan
    net.weights[name][5] = np.inf
    assert thinned(net.model(y)).plan.groups[0].kept == tuple(range(8))


def steep(scale: float = 1.0) -> onnx.ModelProto:
    """A model that reads what overflows, and its copy, with other signs."""
    net = start()
    y = net.node("Relu", net.conv("x", 3, 8))
    net.weights["c0"][2], net.weights["c1"][2] = net.weights["c0"][1], net.weights["c1"][1]
    y = net.node("Mul", y, net.constant(np.float32(scale)))
    y = net.conv(net.node("Pow", y, net.constant(np.float32(20.0))), 8, 6, name="last")
    weight = net.weights[net.nodes[-1].input[1]]
    weight[:] = np.abs(weight) + 0.1
    weight[:, 2] = -weight[:, 1] / 2
    return net.model(y)


def test_random_samples_that_overflow_tell_nothing():
    """Infinity less infinity is no number, and one that is half as large is infinity."""
    assert counts(thinned(steep())) == (0, 1)


def test_where_all_samples_overflow_nothing_is_proved():
    with pytest.raises(CheckError, match="can't be compared: the original gives NaN or infinity"):
        thinned(steep(scale=1e30))


def test_what_rounds_is_not_followed():
    """Nearly equal channels may be rounded differently."""
    net = start()
    y = net.node("Relu", net.node("Round", net.conv("x", 3, 8)))
    y = net.head(net.conv(y, 8, 6), 6, 5)
    net.weights["c0"][2], net.weights["c1"][2] = net.weights["c0"][1], net.weights["c1"][1]
    assert counts(thinned(net.model(y))) == (0, 0)


@pytest.mark.skipif(not FASHION.exists(), reason="models/ is missing")
def test_a_trained_network_has_nothing_to_spare():
    result = thinned(FASHION)
    assert counts(result) == (0, 0)
    assert result.report.after.macs == result.report.before.macs
