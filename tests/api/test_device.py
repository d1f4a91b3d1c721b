"""A run computes in the namespace that it is given, without implicit copies to the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest

import onnx_reap
from onnx_reap.fields import CRITERIA
from onnx_reap.options import Settings
from onnx_reap.solve.backend import Backend

MODELS = Path(__file__).parents[2] / "models"
SMALL = {"target_macs": 0.6, "positions": 8, "joint_refit": 0}
RUNS: dict[str, dict[str, Any]] = {
    **{name: SMALL | {"criterion": name} for name in CRITERIA},
    "channels": SMALL | {"reap_space": "channel"},
    "local": SMALL | {"allocation": "local"},
    "joint": SMALL | {"joint_refit": 2},
    "low rank": SMALL | {"low_rank": "also"},
    "only low rank": SMALL | {"target_macs": 0.8, "low_rank": "only"},
    "2:4": {"positions": 8, "joint_refit": 0, "pattern": "2:4"},
    "tiles": {"positions": 8, "joint_refit": 0, "tile": "8x1", "tile_sparsity": 0.5},
}


class Counting(Backend):
    """Counts what is brought to the device."""

    arrays = 0

    def to_device(self, x: np.ndarray) -> Any:
        type(self).arrays += 1
        return super().to_device(x)


def pruned(**settings: Any) -> onnx_reap.Result:
    images = np.load(MODELS / "fashion_calib.npz")["input"][:24]
    return onnx_reap.reap(MODELS / "fashion_resnet.onnx", images, **settings)


def weights(result: onnx_reap.Result) -> dict[str, np.ndarray]:
    tensors = result.model.graph.initializer
    return {t.name: np.frombuffer(t.raw_data, np.float32) for t in tensors if t.raw_data}


@pytest.mark.parametrize("name", RUNS)
def test_a_device_that_refuses_implicit_copies_gives_the_same_model(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    expected = pruned(**RUNS[name])
    device = array_api_strict.Device("device1")
    monkeypatch.setattr(Counting, "arrays", 0)
    monkeypatch.setattr(Backend, "pick", lambda *_: Counting(array_api_strict, device))
    found = pruned(**RUNS[name])
    assert Counting.arrays > 0, "the device was not used"
    assert found.plan.groups == expected.plan.groups
    other = weights(found)
    for tensor, values in weights(expected).items():
        if values.size > 1:
            # Least squares in another order of summation.
            np.testing.assert_allclose(other[tensor], values, rtol=1e-3, atol=1e-3)


def test_every_way_to_compute_is_tried():
    known = {key for run in RUNS.values() for key in run}
    assert {"criterion", "reap_space", "allocation", "low_rank", "pattern", "tile"} <= known
    assert known <= set(Settings.__dataclass_fields__)
