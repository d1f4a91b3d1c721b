"""Measure what trials do to the outputs, each from the input of the layers that it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_reap.capture.frontier import Frontier
from onnx_reap.capture.rows import own_samples
from onnx_reap.capture.stream import Stream
from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.model import Model
from onnx_reap.graph.probe import Probe
from onnx_reap.runtime import run, session
from onnx_reap.sensitivity.divergence import Metric, Tensors
from onnx_reap.sensitivity.trial import Constants


@dataclass(frozen=True)
class Bench:
    """What trials are measured on.

    Attributes
    ----------
    model : Model
        The original's function, with constants that trials replace.
    samples : Calibration
        Best not among those that trials were fitted on.
    batch : int
        Samples a run; `pad` where the model insists on it.
    """

    model: Model
    probe: Probe
    metrics: Sequence[Metric]
    samples: Calibration
    batch: int
    pad: bool
    providers: Sequence[str]


@dataclass(frozen=True)
class Series:
    """Trials of one group.

    Attributes
    ----------
    tensors : tuple of str
        Outputs of the layers whose constants change.
    dtypes : mapping of str to numpy.dtype
        These constants.
    trials : iterable of Constants
        Values for them; made when they are asked for.
    """

    tensors: tuple[str, ...]
    dtypes: Mapping[str, np.dtype]
    trials: Iterable[Constants]


def measure(
    bench: Bench, series: Sequence[Series], on_series: Callable[[], None]
) -> list[list[float]]:
    """Measure how far every trial takes the outputs from the original's.

    Returns
    -------
    list of lists of float
        For each series the divergence of its trials: mean over samples, sum over outputs.
    """
    names = [metric.output for metric in bench.metrics]
    frontier = Frontier(bench.model, bench.probe, len(bench.samples))
    result: list[list[float]] = [[] for _ in series]
    with Stream(bench.samples, bench.batch, bench.pad, bench.providers) as stream:
        wanted = list(_outputs(bench, stream, names))
        for index in np.argsort([frontier.place(s.tensors) for s in series], kind="stable"):
            move = frontier.move(series[index].tensors)
            if move is not None:
                stream.advance(bench.model, move)
            score = _scorer(bench, stream, series[index], wanted)
            result[index] = [score(trial) for trial in series[index].trials]
            on_series()
    return result


def _outputs(bench: Bench, stream: Stream, names: Sequence[str]) -> Iterator[Tensors]:
    """Run the original; what fills up the last batch of a model with a fixed batch is left out."""
    left = len(bench.samples)
    for batch in stream.run(bench.model, names):
        own, left = min(left, bench.batch), left - bench.batch
        yield {n: own_samples(x, own, bench.batch) if bench.pad else x for n, x in batch.items()}


def _scorer(
    bench: Bench, stream: Stream, series: Series, wanted: Sequence[Tensors]
) -> Callable[[Constants], float]:
    """Make the function that runs the rest of the model with other constants."""
    names = list(wanted[0])
    held = next(stream.held())
    inputs = {name: array.dtype for name, array in held.items()}
    active = session(bench.model.part({**inputs, **series.dtypes}, names), bench.providers)
    fed = {value.name for value in active.get_inputs()}

    scales = {metric: metric.scale(wanted) for metric in bench.metrics}

    def score(trial: Constants) -> float:
        total = 0.0
        for held, want in zip(stream.held(), wanted, strict=True):
            feed = {name: x for name, x in {**held, **trial}.items() if name in fed}
            got = _own(run(active, names, feed), want)
            total += sum(m.distance(want, got) / scale for m, scale in scales.items())
        if not np.isfinite(total):
            raise ReapError(
                "the model's outputs are not finite without some channels",
                got=", ".join(names),
                hint="--allocation local spreads the budget without looking at outputs",
            )
        return total

    return score


def _own(got: Tensors, want: Tensors) -> Tensors:
    """Leave out what fills up the last batch of a model with a fixed batch."""
    return {n: x if x.shape == want[n].shape else x[: len(want[n])] for n, x in got.items()}
