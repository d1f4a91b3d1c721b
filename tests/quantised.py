"""Small networks, quantised by onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from net import Net
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_static,
)
from small_models import images


def residual(channels: int = 16) -> onnx.ModelProto:
    """Image -> a layer, a residual block, a depthwise layer -> classes; no BatchNormalization."""
    n = Net({"x": ("N", 3, 8, 8)}, 0, opset=17)
    h = n.node("Relu", n.conv("x", 3, channels))
    inner = n.node("Relu", n.conv(h, channels, channels))
    h = n.node("Add", h, n.conv(inner, channels, channels))
    h = n.node("Relu", n.conv(h, channels, channels, group=channels))
    h = n.node("Relu", n.conv(h, channels, channels))
    return n.model(n.head(h, channels, 5))


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._left = iter([{"x": images(16)}])

    def get_next(self) -> dict | None:
        return next(self._left, None)


def quantised(model: onnx.ModelProto, form: str = "QDQ", **settings: Any) -> onnx.ModelProto:
    """Quantise a model with input `x`."""
    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "plain.onnx", Path(folder) / "quantised.onnx"
        onnx.save(model, plain)
        quantize_static(plain, path, Reader(), quant_format=QuantFormat[form], **settings)
        return onnx.load(path)
