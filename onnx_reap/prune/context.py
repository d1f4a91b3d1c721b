"""What every step of a run works with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from onnx_reap.data.split import Samples, open_samples
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.exclusion import exclusion
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.onnxio.load import Source, load
from onnx_reap.onnxio.providers import execution_providers
from onnx_reap.options import Settings
from onnx_reap.progress import Progress
from onnx_reap.prune.low_rank.factor import Factor
from onnx_reap.prune.low_rank.stream import Stream
from onnx_reap.solve.backend import Backend

Basis = Factor | Stream


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
class Factored:
    """What a model was before it was written in another form.

    Attributes
    ----------
    original : Analysis
    bases : mapping of str to Factor or Stream
        By name of the group of coordinates.
    notes : tuple of str
        On layers that were left whole.
    """

    original: Analysis
    bases: Mapping[str, Basis]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """One run: a model, its samples, and how to treat them.

    Attributes
    ----------
    factored : Factored, optional
        Where the model is another form of the one that was given.
    """

    analysis: Analysis
    samples: Samples
    settings: Settings
    backend: Backend
    progress: Progress
    clock: Clock
    factored: Factored | None = None

    @property
    def original(self) -> Work:
        """The same work on the model that was given."""
        if self.factored is None:
            return self
        return replace(self, analysis=self.factored.original, factored=None)

    def branch(self, settings: Settings, progress: Progress) -> Work:
        """Return work that goes on from here in a way of its own, with the time spent so far."""
        clock = Clock()
        clock.seconds.update(self.clock.seconds)
        return replace(self, settings=settings, progress=progress, clock=clock)


def open_work(model: Source, data: Any, settings: Settings, progress: Progress) -> Work:
    """Load a model, open its samples and find its channel groups.

    Raises
    ------
    ReapError
        If the model or the data can't be used.
    """
    clock = Clock()
    with clock("load"):
        proto = load(model)
        inputs = model_inputs(proto, settings.input_shapes)
        samples = open_samples(inputs, data, settings)
    with clock("analyse"):
        providers = execution_providers(settings.provider, settings.custom_op_library)
        why_not = exclusion(settings.include, settings.exclude)
        analysis = analyse(proto, inputs, samples.every, providers, why_not)
    only_cpu = settings.provider is not None and analysis.providers == ["CPUExecutionProvider"]
    backend = Backend.pick("cpu" if only_cpu else "auto")
    return Work(analysis, samples, settings, backend, progress, clock)
