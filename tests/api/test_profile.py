"""The command `onnx-reap profile`, and plans from its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from latency_helpers import macs_table
from refusals import assert_refused
from small_models import chain, images

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import ReapError, TargetError, UsageError
from onnx_reap.measure.latency import profile as profiling
from onnx_reap.measure.latency.estimate import predicted_latency
from onnx_reap.measure.latency.table import LatencyTable

FASHION = Path(__file__).parent.parents[1] / "models" / "fashion_resnet.onnx"


@pytest.fixture(autouse=True)
def own_folder(quick_measurements, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One short visit to each layer, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    onnx.save(chain(), "in.onnx")


def written() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"in.onnx"}


def table_of(model: onnx.ModelProto, **settings) -> LatencyTable:
    return macs_table(onnx_reap.profile(model, **settings))


@pytest.mark.skipif(not FASHION.exists(), reason="models/ is missing")
def test_a_table_is_measured_and_a_plan_meets_it(capsys: pytest.CaptureFixture[str]):
    assert main(["profile", str(FASHION), "-o", "t.json"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("Wrote t.json\n") and err == "" and written() == {"t.json"}
    measured = LatencyTable.load("t.json")
    assert len(measured.layers) == 14 and 0.01 < measured.whole_ms < 1000
    even = macs_table(measured)  # one short visit is no base to plan on
    Path("even.json").write_text(even.to_json())
    line = "--target-latency 0.6x --latency-table even.json --criterion l1 --no-refit"
    assert main([str(FASHION), "out.onnx", "--plan", "p.json", *line.split()]) == 0
    assert predicted(FASHION, even, "p.json") <= 0.6 * even.whole_ms
    assert predicted(FASHION, even, "p.json") > 0.4 * even.whole_ms  # and no more than asked for


def predicted(model: Path | onnx.ModelProto, table: LatencyTable, plan: str) -> float:
    """Milliseconds that a table holds for the widths of a plan."""
    from onnx_reap.progress import NoProgress
    from onnx_reap.prune.form import widths_left
    from onnx_reap.prune.replay import open_planned

    run, removed = open_planned(model, plan, {}, NoProgress())
    cost = predicted_latency(run.analysis, table)
    return cost.at(widths_left(run.analysis, removed)) / 1e6


def test_the_budget_is_met_in_milliseconds_and_next_to_another():
    table = table_of(chain())
    data = images(24)
    for target in ("0.7ms", "700us", 0.7):
        wish = (0.7, "ms") if target == 0.7 else target
        result = onnx_reap.reap(chain(), data, target_latency=wish, latency_table=table)
        Path("p.json").write_text(result.plan.to_json())
        assert predicted(chain(), table, "p.json") <= 0.7
    both = onnx_reap.reap(
        chain(), data, target_latency="0.9x", latency_table=table, target_macs=0.4
    )
    assert both.report.after.macs <= 0.4 * both.report.before.macs
    assert str(table) in json.dumps(both.report.to_dict())  # not the table itself


def test_a_budget_out_of_reach_names_milliseconds():
    with pytest.raises(TargetError, match=r"--target-latency: .* 0.01 ms .* at least 0\.\d+ ms"):
        onnx_reap.reap(chain(), target_latency="0.01ms", latency_table=table_of(chain()))


def test_tables_that_do_not_fit_are_refused():
    other = table_of(chain(channels=8))
    with pytest.raises(ReapError, match="--latency-table: measured on another model"):
        onnx_reap.reap(chain(), target_latency="0.5x", latency_table=other)
    larger = table_of(chain(size="S"), input_shapes={"x": (1, 3, 16, 16)})
    with pytest.raises(ReapError, match="other input shapes"):
        onnx_reap.reap(chain(), target_latency="0.5x", latency_table=larger)
    with pytest.raises(ReapError, match="--round-to: the latency table holds other widths"):
        onnx_reap.reap(chain(), target_latency="0.5x", latency_table=table_of(chain()), round_to=1)
    Path("broken.json").write_text("{")
    with pytest.raises(ReapError, match=r"latency table broken.json: not a latency table"):
        onnx_reap.reap(chain(), target_latency="0.5x", latency_table="broken.json")


def test_a_table_without_a_latency_is_refused():
    with pytest.raises(UsageError, match="--latency-table requires --target-latency"):
        onnx_reap.reap(chain(), latency_table="t.json")
    with pytest.raises(UsageError, match="--ratio and --target-latency"):
        onnx_reap.reap(chain(), ratio=0.5, target_latency="0.5x")


@pytest.mark.parametrize("wish", ["5", "0ms", "-1x", 5.0, (5.0, "s"), (0.0, "ms"), (True, "x")])
def test_what_is_no_latency_is_refused(wish: object):
    with pytest.raises(UsageError, match="--target-latency: "):
        onnx_reap.reap(chain(), target_latency=wish, latency_table="t.json")


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("profile", 2, "required: in.onnx, -o/--output | try: onnx-reap profile --help"),
        ("profile in.onnx", 2, "required: -o/--output"),
        ("profile in.onnx -o t.json --ratio 0.5", 2, "unrecognized arguments: --ratio"),
        ("profile in.onnx -o in.onnx", 1, "--output is the same file as the input model"),
        ("profile in.onnx -o no/t.json", 1, "the folder of --output does not exist"),
        ("profile no.onnx -o t.json", 1, "model file no.onnx: not found"),
        ("profile in.onnx -o t.json --provider abacus", 1, "--provider: unknown"),
        ("./profile out.onnx", 1, "model file profile: not found"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    line: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert_refused(line, status, message, capsys)


def test_an_interrupted_measurement_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(profiling, "measure", interrupt)
    assert main(["profile", "in.onnx", "-o", "t.json"]) == 130
    assert written() == set()


def test_settings_reach_the_table():
    line = "profile in.onnx -o t.json -q --round-to 2 --min-channels 6 --input-shapes x:1,3,8,8"
    assert main(line.split()) == 0
    table = LatencyTable.load("t.json")
    assert table.round_to == 2
    assert min(min(layer.outputs) for layer in table.layers[:3]) == 6
    assert main(["profile", "in.onnx", "-o", "u.json", "-q", "--exclude", "*"]) == 0
    assert all(np.size(layer.ms) == 1 for layer in LatencyTable.load("u.json").layers)


def test_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["profile", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"--{name} " in text for name in ("output", "provider", "round-to", "exclude"))
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "onnx-reap profile in.onnx -o latency.json" in capsys.readouterr().out
