"""Calibration data: what the model is run on, and how it is read."""

from onnx_reap.data.arrays import RAW_PIXELS
from onnx_reap.data.calibration import Calibration
from onnx_reap.data.opening import open_calibration
from onnx_reap.data.preprocess import Preprocess
from onnx_reap.data.spec import InputSpec
from onnx_reap.data.synthetic import synthetic_calibration

__all__ = [
    "RAW_PIXELS",
    "Calibration",
    "InputSpec",
    "Preprocess",
    "open_calibration",
    "synthetic_calibration",
]
