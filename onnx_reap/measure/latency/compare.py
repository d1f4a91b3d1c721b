"""Latency of two models, measured side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, heavy, run, session

# A session's threads spin for a while after a run, which would slow the other session down: 1.5
# times on two cores, for MobileNetV2.
_STOP_SPINNING = {"session.force_spinning_stop": "1"}


@dataclass(frozen=True)
class Timing:
    """Time of one run."""

    # Median and interquartile range, in milliseconds; a single run has no range
    median_ms: float
    spread_ms: float | None
    runs: int  # Number of timed runs
    provider: str  # Execution provider that onnxruntime chose first


def compare_latency(
    before: LightModel,
    after: LightModel,
    feed: Feed,
    providers: Sequence[str],
    *,
    runs: int = 100,
    seconds: float = 3.0,
) -> tuple[Timing, Timing]:
    """Time two models on the same feed, by turns, so that both see the same machine.

    Parameters
    ----------
    runs : int
        Timed runs of each model after which no more time is spent than a fifth of `seconds`: runs
        of a small model are many and short, and other work on the machine comes in bursts.
    seconds : float
        Time after which no further run is started, warm-up included. Each model is run once to
        warm up and timed once whatever the time.

    Raises
    ------
    ReapError
        If `runs` is not positive, or onnxruntime can't run a model.
    """
    if runs < 1:
        raise ReapError("runs is too small", got=str(runs), expected="1 or more")
    models = (before, after)
    shares = any(map(heavy, models))  # both or neither, or it is optimizations that are compared
    sessions = [session(m, providers, config=_STOP_SPINNING, shares=shares) for m in models]
    end = time.perf_counter() + seconds
    soon = end - 0.8 * seconds
    warmed = 0
    while warmed == 0 or (warmed < runs // 10 and time.perf_counter() < soon):
        for active in sessions:
            run(active, None, feed)
        warmed += 1
    times: tuple[list[float], list[float]] = ([], [])
    while not times[0] or time.perf_counter() < (end if len(times[0]) < runs else soon):
        for active, measured in zip(sessions, times, strict=True):
            measured.append(_milliseconds(active, feed))
    first, second = (_timing(a, t) for a, t in zip(sessions, times, strict=True))
    return first, second


def _milliseconds(active: Any, feed: Feed) -> float:
    start = time.perf_counter()
    run(active, None, feed)
    return 1e3 * (time.perf_counter() - start)


def _timing(active: Any, times: Sequence[float]) -> Timing:
    low, median, high = np.percentile(times, [25, 50, 75])
    spread = float(high - low) if len(times) > 1 else None
    return Timing(float(median), spread, len(times), active.get_providers()[0])
