"""Every law runs in every array namespace, wherever its arrays live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import array_api_compat.numpy
import array_api_strict
import numpy as np
import pytest

from onnx_reap.solve.backend import Backend


@dataclass(frozen=True)
class Place:
    """A namespace and one of its devices; called with host data, it puts them there."""

    xp: Any
    device: Any

    def __call__(self, x: Any) -> Any:
        return self.xp.asarray(np.array(x), device=self.device)


def _place(name: str) -> Place:
    if name == "numpy":
        return Place(array_api_compat.numpy, "cpu")
    if name == "cupy":
        if (backend := Backend.gpu()) is None:
            pytest.skip("needs CuPy and a CUDA device")
        return Place(backend.xp, backend.device)
    return Place(array_api_strict, array_api_strict.Device(name))


GPU = pytest.param("cupy", marks=pytest.mark.gpu)


@pytest.fixture(params=["numpy", "CPU_DEVICE", "device1", GPU])
def put(request: pytest.FixtureRequest) -> Iterator[Place]:
    """NumPy, array_api_strict on its CPU and on a device that refuses implicit copies, CuPy."""
    yield _place(request.param)
