"""What every step of a run works with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from onnx_reap.analysis import Analysis
from onnx_reap.progress import Progress
from onnx_reap.samples import Samples
from onnx_reap.settings import Settings
from onnx_reap.solve.backend import Backend


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage; times of the same stage add up."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Work:
    """One run: a model, its samples, and how to treat them."""

    analysis: Analysis
    samples: Samples
    settings: Settings
    backend: Backend
    progress: Progress
    clock: Clock
