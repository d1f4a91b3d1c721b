"""Quantised models are refused in one line that tells the way round."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from small_models import chain, images

import onnx_reap
from onnx_reap import ReapError


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter([{"x": images(4)}])

    def get_next(self) -> dict | None:
        return next(self._left, None)


def quantised(kind: str, folder: Path) -> onnx.ModelProto:
    plain, path = folder / "plain.onnx", folder / "quantised.onnx"
    onnx.save(chain(), plain)
    if kind == "dynamic":
        quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)
    else:
        quantize_static(plain, path, Reader(), quant_format=QuantFormat[kind])
    return onnx.load(path)


@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "dynamic"])
def test_quantised_models_are_refused(kind: str, tmp_path: Path):
    model = quantised(kind, tmp_path)
    for settings in ({}, {"criterion": "l1", "refit": False, "ratio": 0.5}):
        with pytest.raises(ReapError, match=r"the model is quantised.*quantise the result"):
            onnx_reap.reap(model, images(), **settings)
    assert not onnx_reap.inspect(model).groups
