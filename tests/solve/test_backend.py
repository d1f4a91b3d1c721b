from __future__ import annotations

import subprocess
import sys

import array_api_compat.numpy
import numpy as np
import pytest

from onnx_reap.solve import backend
from onnx_reap.solve.linalg import spd_inverse


def test_cpu_is_numpy():
    assert backend.Backend.cpu() == backend.Backend(array_api_compat.numpy, "cpu")


def test_without_cupy_there_is_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert backend.Backend.gpu() is None


def test_importing_the_solver_does_not_load_cupy():
    code = (
        "import sys, onnx_reap.solve.removal, onnx_reap.solve.ridge; print('cupy' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_there_and_back(dtype, put):
    x = np.arange(6).reshape(2, 3).astype(dtype)
    there = backend.on_device(x, like=put(0.0))
    assert there.device == put(0.0).device
    back = backend.to_host(there)
    assert type(back) is np.ndarray
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("size", [1, 128, 129, 300])
def test_inverse_of_a_positive_definite_matrix(size, put):
    x = np.random.default_rng(size).normal(size=(2 * size, size))
    A = x.T @ x
    P = backend.to_host(spd_inverse(put(A)))
    np.testing.assert_allclose(P @ A, np.eye(size), atol=1e-9)  # condition number below 100
    np.testing.assert_array_equal(P, P.T)


def test_an_indefinite_matrix_has_no_such_inverse(put):
    with pytest.raises(np.linalg.LinAlgError):
        spd_inverse(put(-np.eye(3)))
