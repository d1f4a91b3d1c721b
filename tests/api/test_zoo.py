"""Slice = mask on real exporters' graphs, reached through --zoo DIR or ONNX_REAP_ZOO."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from oracle import (
    assert_interface,
    assert_same_function,
    choose,
    study,
    widths_left,
)

from onnx_reap.graph.rules.recurrent import GATES

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
    uncounted = studied.flow.products or GATES.keys() & entry["ops"].keys()  # by the zoo
    if not sized_by_data and not uncounted:
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


@pytest.mark.parametrize(
    "name",
    [
        "own_dcgan.dynamo",
        "own_siamese.dynamo-raw",
        "own_shufflenet_v1.legacy-bn",
        "own_conv_attn.dynamo",
        "own_oddities.legacy-op11",
        "mobilenet_v3_small.legacy-folded",
    ],
)
def test_the_table_of_coverage_is_up_to_date(zoo: Path, name: str):
    """A sample of its rows, made again; times differ."""
    coverage = _load(Path(__file__).parent.parent.parent / "scripts" / "coverage.py")
    row = coverage.measure(zoo / f"{name}.onnx.xz")
    listed = coverage.read_table()[name]
    assert replace(row, seconds="") == replace(listed, seconds="")
    assert row.outcome == "same at 1, 2, 3"


def test_the_table_of_coverage_tells_of_all_models(zoo: Path):
    coverage = _load(Path(__file__).parent.parent.parent / "scripts" / "coverage.py")
    rows = coverage.read_table()
    assert rows.keys() == {entry["name"] for entry in _listed(zoo)}
    assert not [row.model for row in rows.values() if row.outcome.startswith(coverage.FAILED)]
    assert coverage.summary(rows.values()) in coverage.TABLE.read_text()
    heavy = [
        r for r in rows.values() if int(r.convs) > 1 and float(r.macs_off or 0) < coverage.GOAL
    ]
    assert len(heavy) <= 0.1 * sum(int(row.convs) > 1 for row in rows.values())


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def _materialize(path: Path) -> onnx.ModelProto:
    return _load(path.parent / "materialize.py").materialize(str(path))


def _entry(path: Path) -> dict:
    return next(entry for entry in _listed(path.parent) if entry["file"] == path.name)


def _listed(folder: Path) -> list[dict]:
    return json.loads((folder / "index.json").read_text())["files"]
