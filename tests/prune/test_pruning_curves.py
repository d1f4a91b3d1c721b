"""Which samples teach, which judge, and which choose."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from small_models import chain, images, run

import onnx_reap
from onnx_reap.prune import pruning_curves as evidence


def test_some_samples_judge_what_others_taught_and_all_of_them_order(monkeypatch):
    seen: dict[str, list] = {"captured": [], "rows of paths": [], "judged": []}
    capture, path, judge = (
        getattr(evidence, n) for n in ("capture_moments", "group_path", "divergence_choices")
    )

    def spied_capture(analysis, taps, samples, *arguments, total, **more):
        result = capture(analysis, taps, samples, *arguments, total=total, **more)
        seen["captured"].append((samples.indices, total, result["conv3"].count))
        return result

    def spied_path(group, flow, model, taps, moments, *arguments, **more):
        seen["rows of paths"].append(moments["conv3"].count)
        return path(group, flow, model, taps, moments, *arguments, **more)

    def spied_judge(analysis, local, orders, observed, samples, *arguments, **more):
        seen["judged"].append((observed.moments["conv3"].count, samples.indices))
        return judge(analysis, local, orders, observed, samples, *arguments, **more)

    for name, spy in (
        ("capture_moments", spied_capture),
        ("group_path", spied_path),
        ("divergence_choices", spied_judge),
    ):
        monkeypatch.setattr(evidence, name, spy)
    onnx_reap.reap(chain(), images(100), target_macs=0.6)

    (taught, total, rows), (judging, again, more) = seen["captured"]
    assert (len(taught), len(judging), total, again) == (72, 18, 90, 90)  # of 90 that are fitted
    assert not set(taught.tolist()) & set(judging.tolist())
    assert set(seen["rows of paths"]) == {rows + more}
    ((known, judged),) = seen["judged"]
    assert known == rows
    assert judged.tolist() == judging.tolist()


@pytest.mark.parametrize("seed", [1, 3])
def test_a_plan_does_not_follow_the_scale_of_activations(seed):
    """Nothing fixes it here: a factor may be moved from a layer into the next."""
    n = Net({"x": ("N", 3, 8, 8)}, seed)
    h, channels = "x", 3
    for gain in (1, 1e-3, 1e3, 1):
        weight = n.random(16, channels, 3, 3, scale=gain * (2 / 9 / channels) ** 0.5)
        h = n.node("Relu", n.node("Conv", h, weight, n.random(16, scale=0.1 * gain), pads=[1] * 4))
        channels = 16
    model, feed = n.model(n.head(h, channels, 5)), {"x": images(200, seed=7)}
    (y,) = run(model, feed)
    errors = {}
    for allocation in ("pro", "uniform"):
        settings = {"round_to": 1, "joint_refit": 0, "allocation": allocation}
        result = onnx_reap.reap(model, images(200), target_macs=0.4, **settings)
        errors[allocation] = np.square(run(result.model, feed)[0] - y).sum()
    assert errors["pro"] < errors["uniform"]


def metrics_given(monkeypatch: pytest.MonkeyPatch, proto, **settings) -> dict[str, bool]:
    """By group, whether what outputs feel tells which of its channels go."""
    seen: dict[str, bool] = {}
    path = evidence.group_path

    def spied(group, *arguments, metrics, **more):
        seen[group.name] = bool(metrics) and any(node in metrics for node in group.consumers)
        return path(group, *arguments, metrics=metrics, **more)

    monkeypatch.setattr(evidence, "group_path", spied)
    onnx_reap.reap(proto, images(40), **({"target_macs": 0.6} | settings))
    return seen


def residual():
    """Two convolutions whose sum two others read, one of them through channels in between."""
    n = Net({"x": ("N", 3, 8, 8)})
    stem = n.block("x", 3, 8)
    inner = n.block(n.block(stem, 8, 12), 12, 8)
    return n.model(n.head(n.block(n.node("Add", stem, inner), 8, 8), 8, 4))


@pytest.mark.parametrize("allocation", ["pro", "local", "uniform"])
def test_what_outputs_feel_ranks_channels_inside_a_residual_branch(monkeypatch, allocation):
    """Not the channels of the sum, and not those in front of layers that add to no other's."""
    found = metrics_given(monkeypatch, residual(), allocation=allocation)
    assert sorted(found.values()) == [False, False, True]
    assert found["conv3"]


def test_layers_that_share_a_weight_are_not_asked(monkeypatch):
    """What the outputs feel of one of them is not what they feel of all."""
    n = Net({"x": ("N", 3, 8, 8)})
    stem = n.block("x", 3, 8)
    weight = n.random(8, 12, 1, 1)
    inner = n.block(stem, 8, 12)
    ends = [n.node("Conv", h, weight) for h in (inner, n.node("Neg", inner))]
    proto = n.model(n.head(n.node("Sum", stem, *ends), 8, 4))
    assert not any(metrics_given(monkeypatch, proto).values())


@pytest.mark.parametrize("criterion", ["l2", "fpgm"])
def test_other_criteria_do_not_ask_what_outputs_feel(monkeypatch, criterion):
    assert not any(metrics_given(monkeypatch, residual(), criterion=criterion).values())
