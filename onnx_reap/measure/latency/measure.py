"""Timing layers at chosen widths, each alone in a model with the activation that follows it.

On the CPU a layer's time is what onnxruntime's profiler says of its kernels: a run of a model of
one layer spends about as long on calling the session as on a small layer. Convolutions there work
on blocked channels; reordering into blocks and back happens in a whole model only where channels
enter and leave convolutions, so the reordering that a layer alone needs is left out. Other
providers run asynchronously, and a profiler sees the launches only, so there the whole run is
timed.

Other work on the machine only ever adds time. So every layer, and every kernel of the whole model,
is visited several times, far apart, and the quietest visit counts.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from onnx_reap.measure.latency.layer import SizedLayer, layer_model
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, run, session

ROUNDS = 5  # visits to every layer
SECONDS = 0.01  # of runs per visit, warm-up included
FEWEST, MOST = 4, 30  # timed runs per visit
WHOLE_SECONDS = 0.1  # of the whole model, which is visited twice a round
WARM_UP = 2  # runs per visit that aren't timed
REORDERING = ("ReorderInput", "ReorderOutput")  # of channels into blocks, and back
CPU = "CPUExecutionProvider"


class Kernel(NamedTuple):
    """A node of the graph that onnxruntime runs."""

    name: str
    place: str
    op: str


BETWEEN = Kernel("", "", "")
"""What passes between kernels in a run."""


def measure(
    points: Iterable[SizedLayer],
    whole: LightModel,
    feed: Feed,
    providers: Sequence[str],
    on_point: Callable[[], None],
) -> tuple[dict[SizedLayer, float], float]:
    """Time layers and, every now and then, the whole model; the quietest visit to each counts.

    Returns
    -------
    whole_ms : float
        The lesser of a plain run, and of the quietest visit to each of its kernels, which is longer
        by what the profiler takes but can be had on a busy machine.
    """
    parts: dict[Kernel, float] = {}
    plain: list[float] = []

    def visit_whole() -> None:
        kernels = _visit(whole, feed, providers, WHOLE_SECONDS)
        parts.update({kernel: min(ms, parts.get(kernel, np.inf)) for kernel, ms in kernels.items()})
        plain.append(_run_time(whole, feed, providers, WHOLE_SECONDS))

    times = measure_layers(points, providers, on_point, visit_whole)
    visit_whole()
    return times, min(*plain, max(sum(parts.values()), 0.0))


def measure_layers(
    points: Iterable[SizedLayer],
    providers: Sequence[str],
    on_point: Callable[[], None],
    twice_a_round: Callable[[], None] = lambda: None,
) -> dict[SizedLayer, float]:
    """Time layers alone, in milliseconds; see `measure`."""
    times = dict.fromkeys(points, np.inf)
    for _ in range(ROUNDS):
        for number, (point, least) in enumerate(times.items()):
            if number in (0, len(times) // 2):
                twice_a_round()
            times[point] = min(least, _alone(point, providers))
            on_point()
    return times


def _alone(point: SizedLayer, providers: Sequence[str]) -> float:
    """Visit a layer once; milliseconds."""
    taken = _visit(*layer_model(point), providers, SECONDS)
    return sum(ms for kernel, ms in taken.items() if not _left_out(kernel, taken))


def _left_out(kernel: Kernel, taken: Mapping[Kernel, float]) -> bool:
    """Whether a part of a layer's run isn't the layer's own."""
    return kernel.op in REORDERING or (kernel == BETWEEN and len(taken) > 1)


def _visit(
    model: LightModel | onnx.ModelProto, feed: Feed, providers: Sequence[str], seconds: float
) -> dict[Kernel, float]:
    """Run a model for some time; milliseconds of its kernels, and of all else in a run."""
    if providers[0] != CPU:
        return {BETWEEN: _run_time(model, feed, providers, seconds)}
    with tempfile.TemporaryDirectory(prefix="onnx-reap-") as folder:
        active = session(model, providers, config={}, profile=Path(folder) / "model")
        runs = _runs(active, feed, seconds)
        events = json.loads(Path(active.end_profiling()).read_text(encoding="utf-8"))
    kernels: dict[Kernel, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            details = event["args"]
            kernel = Kernel(event["name"], details.get("node_index", ""), details["op_name"])
            kernels.setdefault(kernel, []).append(event["dur"] / 1e3)
    # Nodes in the bodies of loops run as often as they like: their time is that of the loop.
    once = {k: times[WARM_UP:] for k, times in kernels.items() if len(times) == len(runs) + WARM_UP}
    between = np.array(runs) - np.sum(list(once.values()), axis=0)
    return {k: _middle(times) for k, times in once.items()} | {BETWEEN: _middle(between.tolist())}


def _run_time(
    model: LightModel | onnx.ModelProto, feed: Feed, providers: Sequence[str], seconds: float
) -> float:
    """Run a model for some time; milliseconds of a run."""
    return _middle(_runs(session(model, providers, config={}), feed, seconds))


def _runs(active: Any, feed: Feed, seconds: float) -> list[float]:
    """Run a session some times; milliseconds of those after the warm-up."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < WARM_UP + FEWEST or (
        len(times) < WARM_UP + MOST and time.perf_counter() < end
    ):
        start = time.perf_counter()
        run(active, None, feed)
        times.append(1e3 * (time.perf_counter() - start))
    return times[WARM_UP:]


def _middle(times: Sequence[float]) -> float:
    """Mean of the middle half: as robust as a median, and finer than the profiler's microsecond."""
    quarter = len(times) // 4
    return float(np.mean(np.sort(times)[quarter : len(times) - quarter]))
