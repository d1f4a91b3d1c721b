"""Progress on a terminal: bars with the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnx_reap.progress import NoProgress, Progress, Step

if TYPE_CHECKING:
    from rich.progress import Progress as Display


class TerminalProgress:
    """Draw a bar for every stage on stderr."""

    def __init__(self) -> None:
        self._display: Display | None = None

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Open a stage; its bar stays on the screen with the time that it took."""
        if self._display is not None:
            with _bar(self._display, name, total) as step:
                yield step
            return
        with _display() as self._display, _bar(self._display, name, total) as step:
            try:
                yield step
            finally:
                self._display = None


def for_terminal(*, quiet: bool = False) -> Progress:
    """Return bars if stderr is a terminal, unless `quiet`."""
    return TerminalProgress() if sys.stderr.isatty() and not quiet else NoProgress()


@contextmanager
def _bar(display: Display, name: str, total: int | None) -> Iterator[Step]:
    task = display.add_task(name, total=total)
    done = 0

    def step(count: int = 1, /) -> None:
        nonlocal done
        done += count
        display.update(task, completed=done)

    yield step
    display.update(task, total=done or 1, completed=done or 1)


def _display() -> Display:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
