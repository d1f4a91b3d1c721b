from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from small_models import chain, images

import onnx_reap
from onnx_reap.errors import ReapError, UsageError
from onnx_reap.measure.latency import measure as measuring
from onnx_reap.measure.latency import profile as profiling
from onnx_reap.measure.latency.layer import SizedLayer, TimedLayer, describe, layer_model
from onnx_reap.measure.latency.measure import measure
from onnx_reap.measure.latency.table import LatencyTable
from onnx_reap.onnxio.session import run, session

CPU = ["CPUExecutionProvider"]


def every_kind(batch: int | str = "N") -> onnx.ModelProto:
    """A model with every kind of linear layer."""
    n = Net({"x": (batch, 3, 8, 8)})
    h = n.block("x", 3, 16)
    h = n.node("Relu", n.conv(h, 16, 16, group=16, name="depthwise"))
    h = n.node("Relu", n.conv(h, 16, 32, group=4, name="grouped", strides=[2, 2], dilations=[2, 2]))
    weight = n.random(32, 16, 2, 2, scale=0.1)
    h = n.node("ConvTranspose", h, weight, n.random(16), name="transposed", strides=[2, 2])
    weight = n.random(16, 1, 3, 3, scale=0.1)
    h = n.node("ConvTranspose", h, weight, name="thin", group=16, pads=[1] * 4)
    weight = n.random(32, 1, 3, 3)
    h = n.node("Conv", h, weight, name="multiplied", group=16, auto_pad="SAME_UPPER")
    h = n.node("Flatten", n.node("GlobalAveragePool", h))
    h = n.node("Relu", n.node("Gemm", h, n.random(24, 32), n.random(24), name="t", transB=1))
    h = n.node("Relu", n.gemm(h, 24, 16, name="plain", alpha=0.5))
    y = n.node("MatMul", h, n.random(16, 5), name="matmul")
    return n.model(y)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.usefixtures("quick_measurements")
def test_recurrent_layers_are_measured(op: str, direction: str):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("ReduceMean", n.block("x", 3, 16), axes=[2], keepdims=0)
    h = n.node("Transpose", h, perm=[2, 0, 1])
    directions, results = 1 + (direction == "bidirectional"), 6 * (4 if op == "LSTM" else 3)
    weights = [n.random(directions, results, size) for size in (16, 6)]
    weights.append(n.random(directions, 2 * results))
    model = n.model(n.node(op, h, *weights, name="rnn", hidden_size=6, direction=direction))
    table = onnx_reap.profile(model, round_to=4)
    layer = next(layer for layer in table.layers if layer.node == "rnn")
    assert layer.inputs == (4, 8, 12, 16) and layer.outputs == (directions * results,)
    assert all(t > 0 for row in layer.ms for t in row)


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.usefixtures("quick_measurements")
def test_every_kind_of_layer_is_measured(batch: int | str):
    table = onnx_reap.profile(every_kind(batch), round_to=4)
    layers = {layer.node: layer for layer in table.layers}
    assert len(layers) == 9 and table.round_to == 4 and table.provider == CPU[0]
    assert table.whole_ms > 0 and all(t > 0 for a in layers.values() for r in a.ms for t in r)
    assert all(layer.x_shape[0] == (1 if batch == "N" else 2) for layer in layers.values())
    assert layers["depthwise"].inputs == (16,) and layers["depthwise"].outputs == (4, 8, 12, 16)
    assert layers["thin"].inputs == (16,)
    assert layers["multiplied"].outputs == (8, 16, 24, 32)
    assert layers["grouped"].inputs == (4, 8, 12, 16)
    assert layers["grouped"].outputs == layers["transposed"].inputs == (8, 12, 20, 24, 32)
    assert layers["t"].weight == (24, 32) and layers["t"].inputs == (8, 16, 24, 32)
    assert layers["plain"].inputs == layers["t"].outputs == (4, 12, 16, 20, 24)
    assert layers["matmul"].outputs == (5,) and layers["matmul"].inputs[-1] == 16
    assert LatencyTable.from_json(table.to_json()) == table


def described(op: str, inputs: int, outputs: int, **attributes) -> TimedLayer:
    """A layer of a model with one node, as the graph's rules see it."""
    from onnx_reap.graph.labels.records import Linear

    linear = Linear("n", op, "x", "y", 1, 1, "w", None, 1, 0, kernel=(3, 3))
    node = oh.make_node(op, ["x", "w"], ["y"], **attributes)
    return describe(linear, node, 17, np.dtype(np.float32), (1, inputs, 6, 6), outputs)


def test_the_layer_model_has_the_attributes_and_the_channels():
    layer = described("Conv", 8, 16, strides=[2, 2], pads=[1, 1, 1, 1])
    model, feed = layer_model(SizedLayer(layer, 4, 12))
    assert feed["x"].shape == (1, 4, 6, 6)
    assert run(session(model, CPU), None, feed)["y"].shape == (1, 12, 3, 3)


def test_the_activation_behind_a_layer_is_part_of_it(monkeypatch: pytest.MonkeyPatch):
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.norm(n.conv("x", 3, 16), 16)
    h = n.node("Clip", h, n.constant(0.0), n.constant(6.0))
    h = n.conv(h, 16, 16)
    h = n.node("Add", n.node("Relu", h), h)  # two read the layer: not part of it
    h = n.node("Clip", n.conv(h, 16, 16), "", n.constant(1.0))
    y = n.head(h, 16, 5)
    seen: list[SizedLayer] = []

    def look(points, *_):
        seen.extend(points)
        return dict.fromkeys(points, 1.0), 10.0

    monkeypatch.setattr(profiling, "measure", look)
    onnx_reap.profile(n.model(y))
    layers = list(dict.fromkeys(point.layer for point in seen))
    assert [layer.bounds for layer in layers] == [(0.0, 6.0), (), (1.0,), ()]
    for point in seen:
        model, feed = layer_model(point)
        (out,) = run(session(model, CPU), None, feed).values()
        assert out.shape[1] == point.outputs
        assert not point.layer.bounds or out.max() <= point.layer.bounds[-1]


@pytest.mark.usefixtures("quick_measurements")
def test_equal_layers_are_measured_once():
    a, b = described("Conv", 8, 16, pads=[1] * 4), described("Conv", 8, 16, pads=[1] * 4)
    other = described("Conv", 8, 16, pads=[0] * 4)
    steps: list[int] = []
    points = [SizedLayer(a, 8, 8), SizedLayer(b, 8, 8), SizedLayer(other, 8, 8)]
    feed = {"x": images(1)}
    times, whole = measure(points, chain(), feed, CPU, lambda: steps.append(1))
    assert len(times) == len(steps) == 2 and whole > 0


class Pretended:
    """A session, and a clock that its runs set forward."""

    now = 0.0

    def __init__(self, ms: float, profile: Path | None):
        self.ms, self.profile, self.runs = ms, profile, 0

    def run(self) -> None:
        self.runs += 1
        between = 0.5 if self.profile else 0.0  # what passes between kernels
        Pretended.now += (self.ms + between) / 1e3

    def end_profiling(self) -> str:
        details = {"op_name": "Conv", "node_index": "0"}
        event = {"cat": "Node", "name": "n_kernel_time", "dur": 1e3 * self.ms, "args": details}
        path = Path(f"{self.profile}.json")
        path.write_text(json.dumps([event] * self.runs))
        return str(path)


def pretend(monkeypatch: pytest.MonkeyPatch, kernel: list[float], plain: list[float]) -> None:
    """Give milliseconds of the one kernel in sessions with a profile, of a run in those without."""
    left = {True: iter(kernel), False: iter(plain)}

    def session(*_, profile=None, **__):
        return Pretended(next(left[profile is not None]), profile)

    monkeypatch.setattr(measuring, "session", session)
    monkeypatch.setattr(measuring, "run", lambda active, *_: active.run())
    clock = SimpleNamespace(perf_counter=lambda: Pretended.now)
    monkeypatch.setattr(measuring, "time", clock)


def test_the_quietest_visit_counts(monkeypatch: pytest.MonkeyPatch):
    visits = [9.0, 3.0, 7.0, 1.0, 5.0]  # whole, layer, whole, layer, whole
    monkeypatch.setattr(measuring, "ROUNDS", 2)
    point = SizedLayer(described("Conv", 8, 16), 8, 8)
    pretend(monkeypatch, visits, [6.0, 7.0, 6.0])
    times, whole = measure([point], chain(), {}, CPU, lambda: None)
    assert times == {point: pytest.approx(1.0)}
    assert whole == pytest.approx(5.5)  # kernels, quieter than a plain run
    pretend(monkeypatch, visits, [7.0, 5.25, 6.0])
    times, whole = measure([point], chain(), {}, CPU, lambda: None)
    assert times == {point: pytest.approx(1.0)} and whole == pytest.approx(5.25)


def test_wider_layers_take_longer():
    layer = described("Conv", 256, 256, pads=[1] * 4)
    narrow, wide = SizedLayer(layer, 32, 32), SizedLayer(layer, 256, 256)
    times, _ = measure([narrow, wide], chain(), {"x": images(1)}, CPU, lambda: None)
    assert times[wide] > 3 * times[narrow]  # 64 times the products


def test_settings_that_do_not_matter_are_refused():
    with pytest.raises(UsageError, match="got: --ratio, --seed"):
        onnx_reap.profile(chain(), ratio=0.5, seed=1)
    with pytest.raises(ReapError, match="not found"):
        onnx_reap.profile("missing.onnx")
