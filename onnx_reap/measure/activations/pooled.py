"""One number by sample and channel: feature maps and outputs, pooled over all positions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.measure.runner import run_batches

HINT = "another criterion, such as reap"


@dataclass(frozen=True)
class Pooled:
    """Pooled values of every sample."""

    maps: Mapping[str, np.ndarray]  # (N, C) float64: by tensor the largest value of every channel
    # (N, K) float64: of the model: the mean of every channel, which is the second axis
    outputs: np.ndarray


def capture_pooled(
    analysis: Analysis,
    axes: Mapping[str, int],
    samples: Calibration,
    on_batch: Callable[[int], object] | None = None,
) -> Pooled:
    """Run all samples and pool tensors, each over all axes but that of its channels."""
    model = analysis.model.to_run()
    ends = [output.name for output in model.graph.output]
    names = list(dict.fromkeys([*axes, *ends]))
    maps: dict[str, list[np.ndarray]] = {name: [] for name in axes}
    outputs: list[np.ndarray] = []
    runs = run_batches(analysis, [model], samples, outputs=names, on_batch=on_batch)
    for count, (values,) in runs:
        for name, axis in axes.items():
            maps[name].append(_by_sample(name, np.moveaxis(values[name], axis, -1), count).max(1))
        outputs.append(_pooled_outputs({name: values[name] for name in ends}, count))
    joined = {name: np.concatenate(blocks).astype(np.float64) for name, blocks in maps.items()}
    return Pooled(joined, np.concatenate(outputs))


def _pooled_outputs(values: Mapping[str, np.ndarray], samples: int) -> np.ndarray:
    """Average every channel of the outputs that have a row for each sample, (samples, K)."""
    rows = [
        _by_sample(name, np.moveaxis(x, min(1, x.ndim - 1), -1), samples)
        for name, x in values.items()
        if x.dtype.kind == "f" and x.ndim and len(x) == samples
    ]
    if not rows:
        raise ReapError(
            "--criterion pls: no output of the model that has a row for every sample", hint=HINT
        )
    return np.concatenate([r.mean(axis=1, dtype=np.float64) for r in rows], axis=1)


def _by_sample(name: str, x: np.ndarray, samples: int) -> np.ndarray:
    """Lay out (..., C), samples along the leading axis, as (samples, positions, C)."""
    if x.size == 0 or len(x) % samples:
        raise ReapError(
            f"--criterion pls: {name} doesn't tell samples apart",
            got=f"shape {x.shape} from {samples} samples",
            hint=HINT,
        )
    return x.reshape(samples, -1, x.shape[-1])
