"""Progress: what the stages of a run report to."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """What a stage calls as it gets on."""

    def __call__(self, count: int = 1, /) -> None:
        """Tell that `count` more steps are done."""


class Progress(Protocol):
    """What stages report to.

    Examples
    --------
    >>> progress = NoProgress()
    >>> with progress.stage("Capturing", total=3) as step:
    ...     for _ in range(3):
    ...         step()
    """

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Step]:
        """Open a stage of `total` steps, None where the number is unknown. Stages may nest."""
        ...


class NoProgress:
    """Tell nothing; what Python callers get."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Step]:
        """Open a stage that nobody sees."""
        yield lambda count=1, /: None
