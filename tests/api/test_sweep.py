"""The command `onnx-reap sweep`: many targets, one calibration."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from refusals import assert_refused
from small_models import chain, images, run, weights_of

import onnx_reap
from onnx_reap import api
from onnx_reap.cli.main import main
from onnx_reap.errors import ReapError, TargetError, UsageError
from onnx_reap.onnxio.files import check_folder, write_folder
from onnx_reap.options import DEFAULT_TARGETS
from onnx_reap.prune import pruning_curves as evidence

MODEL, DATA = chain(16), images(60)
BLIND = "--criterion l1 --no-refit"


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of its own, with a model and its data."""
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL, "in.onnx")
    np.savez("data.npz", x=DATA)


def written(folder: str = "s") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def rows(folder: str = "s") -> list[dict[str, str]]:
    with (Path(folder) / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def counted_macs(model: onnx.ModelProto) -> int:
    """Count a chain's multiply-accumulates from the shapes of its weights, per 8 x 8 image."""
    shapes = [w.shape for w in weights_of(model).values() if w.ndim > 1]
    return sum(int(np.prod(s)) * (64 if len(s) == 4 else 1) for s in shapes)


# What is written


def test_a_sweep_writes_models_plans_a_table_and_a_plot(capsys: pytest.CaptureFixture[str]):
    labels = run(MODEL, {"x": DATA})[0].argmax(1)
    labels[::5] = (labels[::5] + 1) % 5
    np.save("labels.npy", labels)
    line = "sweep in.onnx -o s --data data.npz --labels labels.npy --targets 0.4,70%,0.7"
    assert main(line.split()) == 0
    stems = ["model_0.70", "model_0.40"]
    files = written()
    assert set(files) == {f"{s}{end}" for s in stems for end in (".onnx", ".plan.json")} | {
        "sweep.csv",
        "sweep.svg",
    }
    table = rows()
    assert [row["file"] for row in table] == [f"{stem}.onnx" for stem in stems]
    for row, target in zip(table, (0.7, 0.4), strict=True):
        model = onnx.load(Path("s") / row["file"])
        macs = counted_macs(model)
        assert float(row["target"]) == target
        assert 0.5 * target < macs / counted_macs(MODEL) <= target
        assert int(row["macs"]) == macs
        assert float(row["macs_ratio"]) == pytest.approx(macs / counted_macs(MODEL), rel=1e-5)
        assert int(row["bytes"]) == (Path("s") / row["file"]).stat().st_size
        assert float(row["latency_ms_before"]) > 0 and float(row["latency_ms_after"]) > 0
        replayed = onnx_reap.cut("in.onnx", f"s/model_{target:.2f}.plan.json")
        # The refit gives layers behind a cut a bias; shapes of all else are those of the plan.
        shapes = {name: w.shape for name, w in weights_of(model).items()}
        assert {n: w.shape for n, w in weights_of(replayed).items()}.items() <= shapes.items()
    out, err = capsys.readouterr()
    assert out.count("%") == 2 * 2 + 1  # top-1 and accuracy of both, and the original's accuracy
    assert out.endswith("Wrote 6 files in s\n")
    notes = [re.sub("target [0-9.]+: ", "", line) for line in err.splitlines()]
    assert len(notes) == len(set(notes))  # what holds for both is told once
    assert onnx.load("in.onnx") == MODEL


def test_figures_are_those_of_the_held_out_samples():
    labels = run(MODEL, {"x": DATA})[0].argmax(1)
    labels[::3] = (labels[::3] + 1) % 5
    (point,) = onnx_reap.sweep(MODEL, DATA, targets=[0.3], labels=labels)
    work = api.open_run(MODEL, DATA, onnx_reap.options.Settings(), api.NoProgress())
    at = work.samples.held_out.indices
    before, after = (run(m, {"x": DATA[at]})[0].argmax(1) for m in (MODEL, point.model))
    assert len(at) == point.report.held_out.samples == 6
    assert point.accuracy_before == pytest.approx((before == labels[at]).mean())
    assert point.accuracy_after == pytest.approx((after == labels[at]).mean())


def test_the_same_input_makes_the_same_files():
    for folder in "st":
        line = f"sweep in.onnx -o {folder} --data data.npz -q --targets 0.7,0.4"
        assert main(line.split()) == 0
    first, second = written("s"), written("t")
    assert first.keys() == second.keys()
    assert [n for n in first if n != "sweep.csv" and first[n] != second[n]] == []
    assert b"<dc:date>" not in first["sweep.svg"]
    for a, b in zip(rows("s"), rows("t"), strict=True):
        assert {k: v for k, v in a.items() if "latency" not in k} == {
            k: v for k, v in b.items() if "latency" not in k
        }


def test_the_plot_shows_quality_against_macs_and_the_original():
    line = "sweep in.onnx -o s --data data.npz -q --targets 0.7,0.4"
    assert main(line.split()) == 0
    drawn = written()["sweep.svg"].decode()
    assert drawn.startswith("<?xml") and drawn.rstrip().endswith("</svg>")
    for text in ("MACs, % of the original", "top-1 agreement", "output error", "original"):
        assert f"<!-- {text}" in drawn or f"{text}" in drawn, text
    assert "<!-- 100 -->" in drawn  # of the axis, and of the original's agreement


def test_plans_alone():
    line = "sweep in.onnx -o s --data data.npz -q --targets 0.7,0.4 --plans-only"
    assert main(line.split()) == 0
    plans = {"model_0.70.plan.json", "model_0.40.plan.json"}
    assert set(written()) == plans | {"sweep.csv", "sweep.svg"}
    assert [row["file"] for row in rows()] == sorted(plans, reverse=True)
    assert all(float(row["held_out_error"]) > 0 for row in rows())


def test_without_data_there_is_nothing_to_plot(capsys: pytest.CaptureFixture[str]):
    assert main(f"sweep in.onnx -o s --targets 0.5 {BLIND}".split()) == 0
    assert set(written()) == {"model_0.50.onnx", "model_0.50.plan.json", "sweep.csv"}
    assert rows()[0]["held_out_error"] == rows()[0]["accuracy_after"] == ""
    assert "no sweep.svg" in capsys.readouterr().err


def test_names_tell_targets_apart():
    line = f"sweep in.onnx -o s -q --plans-only --targets 0.5,0.505,50.5%,0.504 {BLIND}"
    assert main(line.split()) == 0
    stems = {name.removesuffix(".plan.json") for name in written() if name.endswith(".json")}
    assert stems == {"model_0.50", "model_0.505", "model_0.504"}


def test_an_old_sweep_is_replaced_and_other_files_stay():
    Path("s").mkdir()
    for name in ("sweep.csv", "model_0.50.onnx", "notes.txt"):
        (Path("s") / name).write_text("old")
    assert main(f"sweep in.onnx -o s -q --targets 0.5 {BLIND}".split()) == 0
    files = written()
    assert files["notes.txt"] == b"old"
    assert b"old" not in (files["sweep.csv"], files["model_0.50.onnx"])


# One calibration


def test_calibration_happens_once(monkeypatch: pytest.MonkeyPatch):
    calls: dict[str, int] = {}

    def count(name: str) -> None:
        function = getattr(evidence, name)

        def counted(*arguments, **more):
            calls[name] = calls.get(name, 0) + 1
            return function(*arguments, **more)

        monkeypatch.setattr(evidence, name, counted)

    for name in ("capture_moments", "group_path", "divergence_choices"):
        count(name)
    points = onnx_reap.sweep(MODEL, DATA, targets=[0.8, 0.6, 0.4])
    assert len(points) == 3
    # The training and the validation split; a path for each of three groups.
    assert calls == {"capture_moments": 2, "group_path": 3, "divergence_choices": 1}


@pytest.mark.parametrize("allocation", ["uniform", "local"])
def test_models_are_those_that_single_runs_make(allocation: str):
    settings = {"allocation": allocation, "round_to": 1}
    points = onnx_reap.sweep(MODEL, DATA, targets=[0.3, 0.9, 0.5, 0.55], **settings)
    assert [point.target for point in points] == [0.9, 0.55, 0.5, 0.3]
    for point in points:
        single = onnx_reap.reap(MODEL, DATA, target_macs=point.target, **settings)
        assert point.plan == single.plan
        assert point.model == single.model
        assert point.report.seconds.keys() == single.report.seconds.keys()


def test_every_model_has_its_own_times():
    first, second = onnx_reap.sweep(MODEL, DATA, targets=[0.8, 0.5], criterion="l1")
    assert first.report.seconds is not second.report.seconds
    assert first.report.seconds["choose"] == second.report.seconds["choose"]


# Targets


def test_default_targets_out_of_reach_are_left_out_with_a_note(capsys: pytest.CaptureFixture[str]):
    assert main(f"sweep in.onnx -o s -q --min-channels 10 --plans-only {BLIND}".split()) == 0
    left = [float(row["target"]) for row in rows()]
    assert left == list(DEFAULT_TARGETS[: len(left)]) and 0 < len(left) < len(DEFAULT_TARGETS)
    (note,) = [x for x in capsys.readouterr().err.splitlines() if "targets left out" in x]
    missed = ", ".join(f"{target:g}" for target in DEFAULT_TARGETS[len(left) :])
    assert note.startswith(f"warning: targets left out: {missed}; the least that can be reached is")
    least = float(note.rpartition(" ")[2])
    assert DEFAULT_TARGETS[len(left)] < least <= left[-1]
    settings = {"min_channels": 10, "criterion": "l1", "refit": False}
    assert len(onnx_reap.sweep(MODEL, targets=[least], **settings)) == 1
    with pytest.raises(TargetError):
        onnx_reap.sweep(MODEL, targets=[least - 0.001], **settings)


def test_targets_out_of_reach_are_refused_before_calibration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "capture_moments", None)
    with pytest.raises(TargetError, match=r"--targets: .* got: 0.1, 0.05 .* at least 0\.\d+ of"):
        onnx_reap.sweep(MODEL, DATA, targets=[0.9, 0.05, 0.1], min_channels=8)
    with pytest.raises(TargetError, match=r"--targets: .* got: 0.9, 0.8, .* 0.3 .* at least 0.9"):
        onnx_reap.sweep(almost_frozen(), images(24), min_channels=2)
    with pytest.raises(TargetError, match="no group has an allowed width below its present one"):
        onnx_reap.sweep(MODEL, DATA, min_channels=16)


def almost_frozen() -> onnx.ModelProto:
    """A large layer whose channels reach the output, before two small ones."""
    n = Net({"x": ("N", 3, 8, 8)})
    return n.model(n.conv(n.block(n.conv("x", 3, 64), 64, 4, k=1), 4, 8, k=1), "conv0_y")


@pytest.mark.parametrize(
    "targets", [[], [1.0], [0], [0.5, -1], ["a"], "0.5", 0.5, [True], [np.nan]]
)
def test_what_is_no_target_is_refused(targets: object):
    with pytest.raises(UsageError, match="--targets: invalid value"):
        onnx_reap.sweep(MODEL, DATA, targets=targets)


def test_arrays_are_targets_too():
    points = onnx_reap.sweep(
        MODEL, targets=np.array([0.5, 0.75]), criterion="l1", refit=False, exclude="conv0"
    )
    assert [point.target for point in points] == [0.75, 0.5]


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_macs": 0.5}, "settings that don't apply here . got: --target-macs"),
        ({"ratio": 0.5, "max_drop": 0.1}, "got: --ratio, --max-drop"),
        ({"colour": "rgb"}, "got: colour"),
    ],
)
def test_settings_that_do_not_go_with_a_sweep(settings: Mapping, message: str):
    with pytest.raises(UsageError, match=message):
        onnx_reap.sweep(MODEL, DATA, **settings)


def test_labels_are_checked_before_calibration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evidence, "capture_moments", None)
    with pytest.raises(ReapError, match="--labels: not one class per sample"):
        onnx_reap.sweep(MODEL, DATA, labels=[1, 2])
    with pytest.raises(
        ReapError, match="--labels: no samples are held out to evaluate the result on"
    ):
        onnx_reap.sweep(MODEL, DATA[:10], labels=np.zeros(10, int))
    with pytest.raises(UsageError, match="--labels requires --data"):
        onnx_reap.sweep(MODEL, labels=np.zeros(256, int))


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("sweep", 2, "required: in.onnx, -o/--output | try: onnx-reap sweep --help"),
        (
            "sweep in.onnx -o s --max-drop 1%",
            2,
            "unrecognized arguments: --max-drop 1% | try: onnx-reap sweep",
        ),
        (
            "sweep in.onnx -o s --targets 0.5,1.5",
            2,
            "--targets: invalid value | got: '0.5,1.5' | expected: fractions",
        ),
        ("sweep in.onnx -o s --targets 0.001", 3, "--targets: can't be reached | got: 0.001 |"),
        ("sweep no.onnx -o s", 1, "model file no.onnx: not found"),
        ("sweep in.onnx -o in.onnx", 1, "--output is not a folder"),
        ("sweep in.onnx -o no/s", 1, "the folder of --output does not exist"),
        ("sweep in.onnx -o s --data no.npz", 1, "no.npz"),
        ("sweep in.onnx -o s --labels l.npy", 2, "--labels requires --data"),
        ("sweep in.onnx -o s --data data.npz --labels no.npy", 1, "--labels no.npy: can't be read"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    line: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert_refused(line, status, message, capsys)


@pytest.mark.parametrize("name", ["model_0.50.onnx", "sweep.csv", "model_0.50.plan.json"])
def test_an_input_is_never_an_output(name: str, capsys: pytest.CaptureFixture[str]):
    Path("s").mkdir()
    Path("in.onnx").rename(Path("s") / name)
    before = written()
    assert main(f"sweep s/{name} -o s --targets 0.5 {BLIND}".split()) == 1
    assert f"--output {name} is the same file as the input model" in capsys.readouterr().err
    assert written() == before


def test_the_folder_of_images_is_no_output(capsys: pytest.CaptureFixture[str]):
    Path("photos").mkdir()
    assert main(["sweep", "in.onnx", "-o", "photos", "--data", "photos/."]) == 1
    assert "--output is the same folder as --data" in capsys.readouterr().err


def test_a_missing_matplotlib_is_told_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(api, "sweep", None)
    assert main(["sweep", "in.onnx", "-o", "s", "--data", "data.npz"]) == 1
    needed = "needs matplotlib | try: pip install matplotlib\n"
    assert capsys.readouterr() == ("", f"onnx-reap: error: the plot of a sweep {needed}")
    assert not Path("s").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ReapError("no more")])
def test_a_run_that_stops_half_way_leaves_nothing(
    stop: BaseException | type, monkeypatch: pytest.MonkeyPatch
):
    made = api.apply_choice
    done = []

    def stopping(*arguments):
        if done:
            raise stop
        done.append(made(*arguments))
        return done[0]

    monkeypatch.setattr(api, "apply_choice", stopping)
    assert main(f"sweep in.onnx -o s {BLIND}".split()) in (130, 1)
    assert done and not Path("s").exists()


def test_a_folder_that_can_not_be_filled_is_gone_again(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    Path("old").mkdir()
    (Path("old") / "a").write_bytes(b"old")
    monkeypatch.setattr("os.fsync", refuse)
    for folder in ("new", "old"):
        with pytest.raises(ReapError, match="No space left"):
            write_folder(Path(folder), {"a": b"1", "b": b"2"})
    assert not Path("new").exists()
    assert written("old") == {"a": b"old"}


def test_a_folder_may_be_a_link(tmp_path: Path):
    Path("link").symlink_to(tmp_path / "target")
    check_folder("--output", Path("link"), ["a"], {})
    write_folder(Path("link"), {"a": b"1"})
    assert written("target") == {"a": b"1"}


# Help


def test_help_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name in ("output", "targets", "labels", "plans-only", "data", "mean", "exclude", "seed"):
        assert f"--{name} " in text
    for name in ("max-drop", "target-macs", "ratio", "evaluate", "layer-ratios"):
        assert f"--{name} " not in text
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "onnx-reap sweep in.onnx -o sweep/" in capsys.readouterr().out
