from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from onnx_reap.errors import ReapError
from onnx_reap.measure.latency import compare as latency
from onnx_reap.measure.latency.compare import compare_latency

CPU = ["CPUExecutionProvider"]


def chain(length: int, width: int = 256) -> onnx.ModelProto:
    """Multiply by a matrix, `length` times."""
    matrix = onnx.numpy_helper.from_array(np.eye(width, dtype=np.float32), "m")
    nodes = [oh.make_node("MatMul", [f"x{i}", "m"], [f"x{i + 1}"]) for i in range(length)]
    ends = [
        oh.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, [width, width])
        for i in (0, length)
    ]
    graph = oh.make_graph(nodes, "chain", ends[:1], ends[1:], [matrix])
    return oh.make_model(graph, ir_version=8, opset_imports=[oh.make_opsetid("", 17)])


FEED = {"x0": np.ones((256, 256), np.float32)}


class Stopwatch:
    """Runs that take as many seconds as the model has nodes, and a clock that agrees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(latency, "run", self.run)
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def run(self, active, outputs, feed) -> None:
        name = active.get_outputs()[0].name
        self.order.append(name)
        self.now += int(name.removeprefix("x"))


def test_medians_spread_and_provider():
    before, after = compare_latency(chain(2), chain(1), FEED, CPU, runs=15)
    assert before.runs == after.runs >= 15
    assert before.median_ms > 0 and after.median_ms > 0
    assert before.spread_ms >= 0 and after.spread_ms >= 0
    assert before.provider == after.provider == "CPUExecutionProvider"


def test_models_run_by_turns_and_times_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch):
    watch = Stopwatch(monkeypatch)
    before, after = compare_latency(chain(3), chain(1), FEED, CPU, runs=3, seconds=50)
    assert watch.order == ["x3", "x1"] * (1 + 3)  # a warm-up each
    assert (before.median_ms, after.median_ms) == (3000, 1000)
    assert (before.spread_ms, after.spread_ms) == (0, 0)


def test_a_single_run_has_no_spread(monkeypatch: pytest.MonkeyPatch):
    Stopwatch(monkeypatch)
    for timing in compare_latency(chain(3), chain(1), FEED, CPU, seconds=1):
        assert (timing.runs, timing.spread_ms) == (1, None)


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch):
    watch = Stopwatch(monkeypatch)
    before, after = compare_latency(chain(1), chain(1), FEED, CPU, runs=1000, seconds=50)
    assert 50 <= watch.now <= 52
    assert before.runs == after.runs == 20  # 10 seconds went into warming up


def test_small_models_are_timed_for_a_fifth_of_the_time(monkeypatch: pytest.MonkeyPatch):
    watch = Stopwatch(monkeypatch)
    before, _ = compare_latency(chain(1), chain(1), FEED, CPU, runs=3, seconds=100)
    assert (before.runs, watch.now) == (9, 20)


def test_slow_models_are_timed_once():
    before, after = compare_latency(chain(1), chain(1), FEED, CPU, seconds=0)
    assert before.runs == after.runs == 1


def test_no_runs_are_refused():
    with pytest.raises(ReapError, match="runs is too small"):
        compare_latency(chain(1), chain(1), FEED, CPU, runs=0)
