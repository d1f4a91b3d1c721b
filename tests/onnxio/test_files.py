from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.files import check_outputs, write_all


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_files_are_written_and_replaced(tmp_path: Path):
    write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    write_all({tmp_path / "a": b"3"})
    assert listing(tmp_path) == {"a": b"3", "b": b"2"}


def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path: Path):
    (tmp_path / "plain").touch()
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o640)
    write_all({tmp_path / "new": b"", tmp_path / "old": b""})
    mode = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert mode["new"] == mode["plain"]
    assert mode["old"] == 0o640


def test_a_symbolic_link_stays_and_its_target_changes(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "file")
    write_all({link: b"1"})
    assert link.is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"1"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    (tmp_path / "a").write_bytes(b"old")
    calls = []

    def fail_the_second_time(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(os, "fsync", fail_the_second_time)
    expected = ReapError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert listing(tmp_path) == {"a": b"old"}
    if expected is ReapError:
        assert "No space left on device" in str(caught.value)


def same(tmp_path: Path, kind: str) -> Path:
    model, other = tmp_path / "in.onnx", tmp_path / "other.onnx"
    if kind == "symbolic link":
        other.symlink_to(model)
    elif kind == "hard link":
        os.link(model, other)
    elif kind == "link to the folder":
        (tmp_path / "here").symlink_to(tmp_path)
        return tmp_path / "here" / "in.onnx"
    else:
        return tmp_path / "." / "in.onnx"
    return other


@pytest.mark.parametrize("kind", ["path", "symbolic link", "hard link", "link to the folder"])
def test_an_output_over_an_input_is_refused(tmp_path: Path, kind: str):
    (tmp_path / "in.onnx").write_bytes(b"model")
    output = same(tmp_path, kind)
    with pytest.raises(ReapError, match="same file as the input"):
        check_outputs({"the output": output}, {"the input": tmp_path / "in.onnx"})
    assert listing(tmp_path)["in.onnx"] == b"model"


def test_two_outputs_in_one_file_are_refused(tmp_path: Path):
    with pytest.raises(ReapError, match="--plan is the same file as --report"):
        check_outputs({"--report": tmp_path / "a", "--plan": tmp_path / "." / "a"})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is a folder"),
        ("missing/out", "folder of out does not exist .* try: mkdir"),
        ("file/out", "can't be written|does not exist"),
        ("n" * 300, "can't be written .* name too long"),
    ],
)
def test_places_that_take_no_file_are_refused(tmp_path: Path, path: str, message: str):
    (tmp_path / "file").touch()
    with pytest.raises(ReapError, match=f"(?i){message}") as caught:
        check_outputs({"out": tmp_path / path})
    assert "\n" not in str(caught.value)
    assert set(listing(tmp_path)) == {"file"}


def test_devices_are_refused():
    with pytest.raises(ReapError, match="not a regular file"):
        check_outputs({"out": os.devnull})


def test_read_only_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(ReapError, match=r"out can't be written .* Permission denied"):
        check_outputs({"out": tmp_path / "out"})


def test_good_paths_pass_and_leave_no_trace(tmp_path: Path):
    (tmp_path / "old").write_bytes(b"old")
    check_outputs({"a": tmp_path / "new", "b": tmp_path / "old"}, {"c": tmp_path / "gone"})
    assert listing(tmp_path) == {"old": b"old"}


def test_files_that_are_replaced_together_come_back_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A model never stands beside the data of another one."""
    for name in ("data", "model"):
        (tmp_path / name).write_text(f"old {name}")
    replace = Path.replace

    def broken(self: Path, target: Path) -> Path:
        if target.name == "model" and self.read_text() == "new model":
            assert (tmp_path / "data").read_text() == "new data"
            assert not (tmp_path / "model").exists()
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(ReapError, match="No space left"):
        write_all({tmp_path / "data": [b"new ", b"data"], tmp_path / "model": b"new model"})
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "data": "old data",
        "model": "old model",
    }
    monkeypatch.undo()
    write_all({tmp_path / "data": [b"new ", b"data"], tmp_path / "model": b"new model"})
    assert (tmp_path / "model").read_text() == "new model"
    assert len(list(tmp_path.iterdir())) == 2
