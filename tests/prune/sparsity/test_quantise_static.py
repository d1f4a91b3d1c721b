"""What comes out goes through onnxruntime's static quantisation as any other model."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from nets import residual
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from small_models import images, run

import onnx_reap


class Reader(CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self._feeds = iter([{"x": each[None]} for each in x])

    def get_next(self):
        return next(self._feeds, None)


def quantised(model: onnx.ModelProto, folder) -> onnx.ModelProto:
    onnx.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(images(16)),
        quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True},
    )
    return onnx.load(folder / "int8.onnx")


def near(model: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """8 bits leave an error of some hundredths of the variance."""
    x = {"x": images(32, seed=5)}
    want = run(model, x)[0]
    session = onnxruntime.InferenceSession(
        other.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    have = session.run(None, x)[0]
    return float(np.mean((want - have) ** 2) / np.var(want)) < 0.1


@pytest.mark.parametrize("given", [{"ratio": 0.5}, {"pattern": "2:4"}], ids=["half", "2:4"])
def test_static_quantisation(given, tmp_path, monkeypatch):
    result = onnx_reap.reap(residual(), images(60), joint_refit=0, **given)
    other = quantised(result.model, tmp_path)
    assert near(result.model, other)
    if "pattern" not in given:
        return
    ints = [t for t in other.graph.initializer if t.name.endswith("_quantized")]
    fours = 0
    for tensor in ints:
        weight = onnx.numpy_helper.to_array(tensor)
        if weight.dtype != np.int8 or weight.ndim < 2 or weight.shape[1] % 4:
            continue
        if weight.ndim == 2:
            weight = weight.T
        o, c = weight.shape[:2]
        assert (np.count_nonzero(weight.reshape(o, c // 4, 4, -1), axis=2) <= 2).all()
        fours += 1
    assert fours >= 6
