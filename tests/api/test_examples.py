"""Examples in the docstrings of the public functions run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from onnx_reap import api

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / "models" / "fashion_resnet.onnx").exists(), reason="no models/")
def test_examples(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(api)
    assert found.attempted > 3
    assert not found.failed
