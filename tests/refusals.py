"""What a command must do that it can't carry out."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_reap.cli.main import main


def _contents() -> dict[str, bytes | None]:
    """What lies in this folder; of folders their names."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in Path().iterdir()}


def assert_refused(
    line: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says so in one line, and leaves the folder as it was."""
    before = _contents()
    assert main(line.split()) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert _contents() == before
