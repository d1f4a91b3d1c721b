"""One number by sample and channel: feature maps and outputs, pooled over all positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.measure.activations.moments import batch_size
from onnx_reap.measure.activations.rows import own_samples
from onnx_reap.onnxio.session import run, session, with_outputs


@dataclass(frozen=True)
class Pooled:
    """What each sample gives.

    Attributes
    ----------
    maps : mapping of str to (N, C) float64 array
        By tensor the largest value of every channel.
    outputs : (N, K) float64 array
        Of the model: the mean of every channel, which is the second axis.
    """

    maps: Mapping[str, np.ndarray]
    outputs: np.ndarray


def capture_pooled(
    model: onnx.ModelProto,
    axes: Mapping[str, int],
    calibration: Calibration,
    probe: Probe,
    *,
    fixed_batch: int | None,
    providers: Sequence[str],
    on_batch: Callable[[int], None],
) -> Pooled:
    """Run all samples and pool.

    Parameters
    ----------
    axes : mapping of str to int
        Tensors, and the axis of each that holds its channels.
    fixed_batch, providers, on_batch
        See `capture_moments`.

    Raises
    ------
    ReapError
        If a tensor has no part of its own for every sample, or the model no such output.
    """
    ends = [output.name for output in model.graph.output]
    names = list(dict.fromkeys([*axes, *ends]))
    active = session(with_outputs(model, names), providers)
    size = batch_size(probe, names, fixed_batch)
    maps: dict[str, list[np.ndarray]] = {name: [] for name in axes}
    outputs: list[np.ndarray] = []
    seen = 0
    for feed in calibration.batches(size, pad=fixed_batch is not None):
        own = min(size, len(calibration) - seen)
        values = run(active, names, feed)
        if fixed_batch is not None:
            values = {name: own_samples(x, own, size) for name, x in values.items()}
        for name, axis in axes.items():
            maps[name].append(_by_sample(name, np.moveaxis(values[name], axis, -1), own).max(1))
        rows = [
            _by_sample(name, np.moveaxis(values[name], min(1, values[name].ndim - 1), -1), own)
            for name in ends
            if values[name].dtype.kind == "f" and values[name].ndim and len(values[name]) == own
        ]
        if not rows:
            raise ReapError(
                "--criterion pls: no output of the model that has a row for every sample",
                hint="another criterion, such as reap",
            )
        outputs.append(np.concatenate([r.mean(axis=1, dtype=np.float64) for r in rows], axis=1))
        seen += own
        on_batch(own)
    joined = {name: np.concatenate(blocks).astype(np.float64) for name, blocks in maps.items()}
    return Pooled(joined, np.concatenate(outputs))


def _by_sample(name: str, x: np.ndarray, samples: int) -> np.ndarray:
    """Lay out (..., C), samples along the leading axis, as (samples, positions, C)."""
    if x.size == 0 or len(x) % samples:
        raise ReapError(
            f"--criterion pls: {name} doesn't tell samples apart",
            got=f"shape {x.shape} from {samples} samples",
            hint="another criterion, such as reap",
        )
    return x.reshape(samples, -1, x.shape[-1])
