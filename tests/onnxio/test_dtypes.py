"""Element types: the answers agree with what onnx and NumPy know."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from onnx_reap.onnxio.dtypes import (
    FLOATS,
    bits,
    is_any_float,
    is_float,
    is_integer,
    is_integer_or_bool,
    is_native,
    rounded,
    to_numpy,
    to_onnx,
)


@pytest.mark.parametrize("kind", FLOATS)
def test_floats(kind: int):
    dtype = to_numpy(kind)
    assert is_float(dtype) and is_any_float(dtype) and is_any_float(kind)
    assert to_onnx(dtype) == kind
    assert bits(kind) == FLOATS[kind] == 8 * dtype.itemsize
    assert is_native(dtype) == (kind != TensorProto.BFLOAT16)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64])
def test_integers(dtype):
    assert is_integer(dtype) and is_integer_or_bool(dtype) and is_native(dtype)
    assert not is_float(dtype) and not is_any_float(dtype)


def test_others():
    assert is_integer_or_bool(bool) and not is_integer(bool)
    assert is_any_float(ml_dtypes.float8_e4m3fn) and not is_float(ml_dtypes.float8_e4m3fn)
    assert not is_float(np.complex64) and not is_native(object)


def test_what_is_too_large_for_a_type_becomes_infinite():
    found = rounded(np.float32([1.0001, 1e6]), np.float16)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([1.0, np.inf]))
