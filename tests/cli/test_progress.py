from __future__ import annotations

import io
import sys

import pytest

from onnx_reap.cli.progress import TerminalProgress, for_terminal
from onnx_reap.progress import NoProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace stderr; a fixture could not, as pytest puts its own stream back before the test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return stream


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch):
    terminal = on_a_terminal(monkeypatch)
    progress = for_terminal()
    with progress.stage("Capturing", total=4) as step:
        step(3)
        step()
    with progress.stage("[b]Cutting") as step:
        step()
    text = terminal.getvalue()
    assert "Capturing" in text and "100%" in text
    assert "[b]Cutting" in text


def test_stages_nest(monkeypatch: pytest.MonkeyPatch):
    terminal = on_a_terminal(monkeypatch)
    progress = TerminalProgress()
    with progress.stage("Outer", 2) as outer:
        for _ in range(2):
            with progress.stage("Inner", 1) as inner:
                inner()
            outer()
    assert "Inner" in terminal.getvalue() and "Outer" in terminal.getvalue()


def test_a_failure_ends_the_display_and_passes(monkeypatch: pytest.MonkeyPatch):
    terminal = on_a_terminal(monkeypatch)
    progress = TerminalProgress()
    with pytest.raises(KeyboardInterrupt), progress.stage("Capturing", 2):
        raise KeyboardInterrupt
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back
    with progress.stage("Again", 1) as step:
        step()
    assert "Again" in terminal.getvalue()


@pytest.mark.parametrize("quiet", [False, True])
def test_silent_when_quiet_or_not_on_a_terminal(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    if quiet:
        monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = for_terminal(quiet=quiet)
    assert isinstance(progress, NoProgress)
    with progress.stage("Capturing", total=4) as step:
        step(4)
    assert capfd.readouterr() == ("", "")
