"""The whole line computes in the namespace that it is given, without implicit host copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import array_api_strict
import numpy as np
import pytest
from net import Net
from small_models import images, weights_of

import onnx_reap
from onnx_reap.fields import CRITERIA
from onnx_reap.solve.backend import Backend

BUDGET = {"target_macs": 0.6, "positions": 8, "joint_refit": 0, "tune": 0}
ALONE = {**BUDGET, "refit": False, "allocation": "local"}
"""Nothing but the choice of channels computes."""

HOST_ONLY = ("l1", "l2", "fpgm", "fold", "random")
"""Criteria that look at weights alone; what follows computes."""

CASES: dict[str, dict[str, Any]] = {
    **{name: {**BUDGET, "criterion": name} for name in CRITERIA},
    **{f"{n} alone": {**ALONE, "criterion": n} for n in CRITERIA if n not in HOST_ONLY},
    "reap in channels": {**BUDGET, "reap_space": "channel"},
    "reap in channels alone": {**ALONE, "reap_space": "channel"},
    "uniform": {**BUDGET, "allocation": "uniform"},
    "joint refit": {**BUDGET, "joint_refit": 2},
    "tuning": {**BUDGET, "tune": 2},
    "max drop": {"max_drop": 0.3, "positions": 8, "joint_refit": 0, "tune": 0},
    "low rank also": {**BUDGET, "low_rank": "also"},
    "low rank only": {**BUDGET, "target_macs": 0.9, "low_rank": "only"},
    "tiles": {"tile": "4x1", "tile_sparsity": 0.5, "positions": 8, "tune": 0},
    "tiles after channels": {**BUDGET, "tile": "4x1", "tile_sparsity": 0.5},
    "2:4": {"pattern": "2:4", "positions": 8, "tune": 2},
}


@dataclass(frozen=True)
class Strict(Backend):
    """A device that refuses implicit copies and all that the standard lacks; it counts arrays."""

    xp: Any = array_api_strict
    device: Any = field(default_factory=lambda: array_api_strict.Device("device1"))
    made: list[tuple[int, ...]] = field(default_factory=list)

    def to_device(self, x: np.ndarray) -> Any:
        self.made.append(x.shape)
        return super().to_device(x)


def net():
    """Blocks of convolutions with a narrow stream between linear layers, and dense layers."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block(n.block("x", 3, 16), 16, 32)
    narrow = n.norm(n.conv(h, 32, 16, 1, bias=False), 16)
    h = n.block(narrow, 16, 32)
    return n.model(n.head(n.block(h, 32, 32), 32, 5))


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_a_device_that_refuses_implicit_copies_gives_the_same_model(monkeypatch, settings):
    expected = onnx_reap.reap(net(), images(160), **settings)
    device = Strict()
    monkeypatch.setattr(Backend, "gpu", lambda: device)
    found = onnx_reap.reap(net(), images(160), **settings)
    assert device.made, "nothing was computed on the device"
    assert found.plan.groups == expected.plan.groups
    assert found.report.factors == expected.report.factors
    if settings.get("low_rank") != "also":  # by which layers may be one or two
        assert bool(found.report.factors) == (settings.get("low_rank") == "only")
    weights = [weights_of(result.model) for result in (expected, found)]
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        # Least squares in another order of summation.
        np.testing.assert_allclose(weights[1][name], values, rtol=1e-3, atol=1e-4)
