import numpy as np
import pytest

from onnx_reap.data import Calibration, InputSpec, Preprocess, open_calibration
from onnx_reap.errors import ReapError


def spec(*shape, name="x", dtype="float32", **others):
    return InputSpec(name, np.dtype(dtype), shape, **others)


def collect(calibration: Calibration, size: int = 4, name: str = "x") -> np.ndarray:
    return np.concatenate([feed[name] for feed in calibration.batches(size)])


def refusal(data, inputs, preprocess=Preprocess(), **options) -> str:  # noqa: B008 - frozen
    """The message of opening and reading data that must be refused."""
    with pytest.raises(ReapError) as caught:
        list(open_calibration(data, inputs, preprocess, **options).batches(4))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
