"""The whole line computes in the namespace that it is given, without implicit host copies."""

from pathlib import Path

import array_api_strict
import numpy as np
import pytest

import onnx_reap
from onnx_reap import api as pipeline

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.mark.parametrize("criterion", ["reap", "l1"])
def test_a_device_that_refuses_implicit_copies_gives_the_same_model(monkeypatch, criterion):
    images = np.load(MODELS / "fashion_calib.npz")["input"][:24]
    arguments = {"target_macs": 0.6, "positions": 8, "criterion": criterion}
    model = MODELS / "fashion_resnet.onnx"
    expected = onnx_reap.reap(model, images, **arguments)
    device = array_api_strict.Device("device1")
    monkeypatch.setattr(pipeline, "namespace", lambda wish: (array_api_strict, device))
    found = onnx_reap.reap(model, images, **arguments)
    assert found.plan.groups == expected.plan.groups
    weights = [
        {t.name: np.frombuffer(t.raw_data, np.float32) for t in r.model.graph.initializer}
        for r in (expected, found)
    ]
    for name, values in weights[0].items():
        if values.size > 1:
            # Least squares in another order of summation.
            np.testing.assert_allclose(weights[1][name], values, rtol=1e-3, atol=1e-4)
