"""What every stage of a run works with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from onnx_reap.data.split import Samples, divide, open_samples
from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.exclusion import exclusion
from onnx_reap.graph.inputs import model_inputs, with_sizes, with_values
from onnx_reap.graph.lookups import with_lookups
from onnx_reap.measure.synthesis.matching import with_matched_samples
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.load import Source, load
from onnx_reap.onnxio.providers import execution_providers
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress, Progress
from onnx_reap.prune.form import Form
from onnx_reap.solve.backend import Backend


@dataclass(frozen=True)
class Clock:
    """Seconds by stage, and when repairs that could go on are to end."""

    seconds: dict[str, float] = field(default_factory=dict)
    deadline: float = math.inf  # By `time.perf_counter`

    @property
    def left(self) -> float:
        """Seconds until the deadline, below 0 past it."""
        return self.deadline - time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage; times of the same stage add up."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Run:
    """One run: the model that is pruned, its samples, and how to treat them."""

    form: Form
    samples: Samples
    settings: Settings
    progress: Progress
    clock: Clock

    @property
    def analysis(self) -> Analysis:
        """Of the model that is pruned."""
        return self.form.analysis

    @property
    def reason_to_keep(self) -> Callable[[str], str | None]:
        """The function that tells why a node's channels must stay by the user's wish."""
        return exclusion(self.settings.include, self.settings.exclude)

    @cached_property
    def backend(self) -> Backend:
        """Where arrays are computed with."""
        given, providers = self.settings.provider, self.analysis.providers
        only_cpu = given is not None and providers == ["CPUExecutionProvider"]
        return (None if only_cpu else Backend.gpu()) or Backend.cpu()

    @property
    def original(self) -> Run:
        """The same run on the model as it was given."""
        return self.on(self.form.original)

    def on(self, analysis: Analysis) -> Run:
        """Return the same run on another model."""
        return replace(self, form=Form(analysis))

    def analysed(self, light: LightModel, bases: Collection[str] = ()) -> Analysis:
        """Analyse another model with the same inputs, see `analyse`."""
        inputs = model_inputs(light.proto, self.settings.input_shapes)
        providers = self.analysis.providers
        return analyse(
            light, inputs, self.samples.every, providers, self.reason_to_keep, bases=bases
        )

    def with_settings(self, **settings: Any) -> Run:
        """Return a run that goes on from here by other settings, silently, with a clock of its own.

        The time spent so far is on that clock.
        """
        clock = replace(self.clock, seconds=dict(self.clock.seconds))
        changed = replace(self.settings, **settings)
        return replace(self, settings=changed, progress=NoProgress(), clock=clock)

    def in_share(self, models: int) -> Run:
        """Return a run that leaves as much time to each of the other models that are to come."""
        deadline = time.perf_counter() + self.clock.left / models
        return replace(self, clock=replace(self.clock, deadline=deadline))


def open_run(
    model: Source,
    data: Any,
    settings: Settings,
    progress: Progress,
    sizes: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, int | float | str] | None = None,
    *,
    match: bool = True,
) -> Run:
    """Load a model, open its samples and find its channel groups.

    Parameters
    ----------
    sizes : mapping of str to sequence of int, optional
        By input, sizes to take where neither the model nor the settings tell.
    values : mapping of str to number or str, optional
        By input, what it is fed where there are no data.
    match : bool
        Whether made-up samples are moved towards what the model was trained on, where something is
        estimated from them.
    """
    clock = Clock(deadline=time.perf_counter() + (settings.time_limit or math.inf))
    with clock("load"):
        light = load(model)
        inputs = with_sizes(model_inputs(light.proto, settings.input_shapes), sizes or {})
        if data is None:
            inputs = with_values(with_lookups(light, inputs), values or {})
        every = open_samples(inputs, data, settings)
    with clock("analyse"):
        providers = execution_providers(
            settings.provider, settings.custom_op_library, settings.threads
        )
        reason_to_keep = exclusion(settings.include, settings.exclude)
        analysis = analyse(light, inputs, every, providers, reason_to_keep)
    if data is None and match and settings.estimates:
        with clock("match"):
            scaled = any(x is not None for x in (settings.scale, settings.mean, settings.std))
            analysis = with_matched_samples(analysis, inputs, progress, scaled=scaled)
    samples = divide(analysis.samples, settings, made_up=data is None)
    return Run(Form(analysis), samples, settings, progress, clock)
