"""Whole runs with every criterion."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_models import Net, chain, images, run, without_latency

import onnx_reap
from onnx_reap.criteria import table
from onnx_reap.criteria.table import CRITERIA
from onnx_reap.errors import ReapError

DATA = images(24)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_latency(monkeypatch)


def mixed() -> onnx.ModelProto:
    """Shortcut, depthwise and grouped convolutions, Concat."""
    n = Net({"x": ("N", 3, 8, 8)})
    stem = n.block("x", 3, 16)
    h = n.block(n.block(stem, 16, 16, 1), 16, 16, group=16)
    h = n.node("Add", stem, n.norm(n.conv(h, 16, 16, 1, bias=False), 16))
    both = n.node("Concat", n.block(h, 16, 8, group=2), n.conv(h, 16, 8, 1), axis=1)
    return n.model(n.head(n.block(both, 16, 12), 12, 5))


def reap(name: str, **settings) -> onnx_reap.Result:
    if CRITERIA[name].package:
        pytest.importorskip(CRITERIA[name].package)
    return onnx_reap.reap(mixed(), criterion=name, **settings)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_makes_a_smaller_model_the_same_one_twice(name):
    settings = {"data": DATA, "target_macs": 0.6}
    result = reap(name, **settings)
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    (y,) = run(result.model, {"x": DATA})
    assert y.shape == (24, 5) and np.isfinite(y).all()
    assert reap(name, **settings).model == result.model


@pytest.mark.parametrize("name", CRITERIA)
def test_without_a_refit_the_model_is_sliced_and_nothing_else(name):
    result = reap(name, data=DATA, ratio=0.5, refit=False)
    assert not result.report.refits
    model = onnx_reap.mask(mixed(), result.plan)
    (expected,), (found,) = (run(m, {"x": DATA}) for m in (model, result.model))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("name", CRITERIA)
def test_only_those_that_look_at_activations_run_samples(name):
    report = reap(name, ratio=0.5, refit=False).report
    assert (report.fitted is not None) == CRITERIA[name].runs


@pytest.mark.parametrize("name", ["reap", "thinet"])
def test_channels_are_chosen_in_the_space_of_channels_too(name):
    settings = {"criterion": name, "ratio": 0.5, "refit": False, "round_to": 1}
    plans = [
        onnx_reap.reap(chain(24), DATA, **settings, **more).plan.groups
        for more in ({}, {"reap_space": "patch"}, {"reap_space": "channel"})
    ]
    assert plans[0] == plans[1] != plans[2]


def test_a_missing_package_stops_before_anything_is_run(monkeypatch):
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    with pytest.raises(ReapError, match=r"--criterion lasso: .* try: pip install"):
        onnx_reap.reap("nowhere.onnx", criterion="lasso")
