"""Slice = mask on real exporters' graphs, reached through --zoo DIR or ONNX_REAP_ZOO."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import pytest
from graph.oracle import (
    assert_interface,
    assert_same_function,
    choose,
    study,
    widths_left,
)

pytestmark = pytest.mark.zoo

# Up to 200 layers of float32 in another order of summation; half precision carries 11 bits.
TOLERANCE, HALF_TOLERANCE = 2e-4, 5e-2


def test_cut_of_a_zoo_model(zoo_model: Path):
    """Never wrong, never crashing; what is not understood is frozen with its reason."""
    proto = _materialize(zoo_model)
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in proto.graph.initializer)
    studied = study(proto, dynamic=32)
    assert all(frozen.reason and frozen.cause for frozen in studied.frozen)
    assert studied.groups or studied.frozen
    entry = _entry(zoo_model)
    sized_by_data = entry["macs_from"] == "run"  # detectors: as many boxes as there are
    if not sized_by_data:
        assert studied.macs.at(studied.widths) == entry["macs"]
    removed = choose(studied.groups, 0.5)
    masked, cut = studied.mask(removed), studied.cut(removed)
    batches = (1,) if studied.probe.batch == 1 else (1, 3)
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    assert_same_function(masked, cut, batches, tolerance, dynamic=32)
    onnx.checker.check_model(cut, full_check=True)
    assert_interface(proto, cut)
    again = study(cut, dynamic=32)
    left = widths_left(studied.groups, removed)
    assert sized_by_data or studied.macs.at(left) == again.macs.at(again.widths)
    assert studied.params.at(left) == again.params.at(again.widths)


def _materialize(path: Path) -> onnx.ModelProto:
    spec = importlib.util.spec_from_file_location("materialize", path.parent / "materialize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.materialize(str(path))


def _entry(path: Path) -> dict:
    listed = json.loads((path.parent / "index.json").read_text())["files"]
    return next(entry for entry in listed if entry["file"] == path.name)
