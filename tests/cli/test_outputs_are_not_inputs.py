"""No command writes over a file that it reads, whatever the option and whatever the file."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import chain, images

from onnx_reap.cli.inspect import INSPECT
from onnx_reap.cli.main import main
from onnx_reap.cli.profile import PROFILE
from onnx_reap.cli.run import RUN
from onnx_reap.cli.sweep import SWEEP

READ = {
    "run": {
        "data.npz": "--data data.npz",
        "labels.npy": "--data data.npz --labels labels.npy --max-drop 5%",
        "ops.so": "--custom-op-library ops.so",
        "table.json": "--target-latency 5ms --latency-table table.json",
        "ratios.json": "--layer-ratios ratios.json",
        "plan.json": "--from-plan plan.json",
    },
    "inspect": {"data.npz": "--data data.npz", "ops.so": "--custom-op-library ops.so"},
    "profile": {"ops.so": "--custom-op-library ops.so"},
    "sweep": {
        "data.npz": "--data data.npz",
        "labels.npy": "--data data.npz --labels labels.npy",
        "ops.so": "--custom-op-library ops.so",
    },
}
WRITTEN = {
    "run": ["in.onnx {}", "in.onnx out.onnx --report {}", "in.onnx out.onnx --plan {}"],
    "inspect": ["inspect in.onnx --json {}"],
    "profile": ["profile in.onnx -o {}"],
}
CASES = [
    (line.format(path), options)
    for command, lines in WRITTEN.items()
    for line, (path, options) in product(
        lines, [*READ[command].items(), ("in.onnx", ""), ("in.onnx.data", "")]
    )
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model = chain()
    onnx.save(
        model, "in.onnx", save_as_external_data=True, location="in.onnx.data", size_threshold=0
    )
    np.savez("data.npz", **{model.graph.input[0].name: images(8)})
    np.save("labels.npy", np.zeros(8, np.int64))
    Path("ops.so").write_bytes(b"")
    for name in ("table.json", "ratios.json", "plan.json"):
        Path(name).write_text(json.dumps({}))
    return tmp_path


@pytest.mark.parametrize("command", [RUN, INSPECT, PROFILE, SWEEP], ids=lambda each: each.name)
def test_every_option_that_names_a_file_has_a_case(command):
    """An option of the table that isn't tried here would fail this test."""
    flags = {each.flag for each in command.options if each.kind.read is Path}
    tried = " ".join([*READ[command.name].values(), *WRITTEN.get(command.name, [])])
    own = {"--output", "--model"}
    assert flags - own == set(re.findall(r"--[a-z-]+", tried)) - {"--max-drop", "--target-latency"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("line", "options"), CASES)
def test_a_file_that_is_read_is_not_written(
    line: str, options: str, files: Path, capsys: pytest.CaptureFixture[str]
):
    before = contents(files)
    assert main([*line.split(), *options.split()]) == 1
    assert "is the same file as" in capsys.readouterr().err
    assert contents(files) == before


@pytest.mark.parametrize(("path", "options"), READ["sweep"].items())
def test_a_sweep_writes_over_none_either(
    path: str, options: str, files: Path, capsys: pytest.CaptureFixture[str]
):
    folder = files / "sweep"
    folder.mkdir()
    (folder / "sweep.csv").hardlink_to(files / path)
    before = contents(files)
    assert main(["sweep", "in.onnx", "-o", "sweep", "--targets", "0.5", *options.split()]) == 1
    assert "is the same file as" in capsys.readouterr().err
    assert contents(files) == before


def test_weights_of_one_name_in_two_folders_are_both_kept(
    files: Path, capsys: pytest.CaptureFixture[str]
):
    model = onnx.load("in.onnx", load_external_data=False)
    weights = Path("in.onnx.data").read_bytes()
    folders = [Path("a"), Path("b")]
    for folder in folders:
        folder.mkdir()
        (folder / "w.bin").write_bytes(weights)
    for i, tensor in enumerate(model.graph.initializer):
        entry = next(e for e in tensor.external_data if e.key == "location")
        entry.value = f"{folders[i % 2]}/w.bin"
    onnx.save(model, "two.onnx")
    before = contents(files)
    for folder in folders:
        assert main(["inspect", "two.onnx", "--json", str(folder / "w.bin")]) == 1
        assert "is the same file as" in capsys.readouterr().err
    assert contents(files) == before
