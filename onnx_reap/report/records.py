"""The report's content; `Report.to_dict` is the JSON file's."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.measure.accuracy_loss import EstimatedLoss
from onnx_reap.measure.quality import Quality
from onnx_reap.prune.form import Factorised
from onnx_reap.prune.lossless.trim import Lossless
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.prune.refit.layer import LayerRefit
from onnx_reap.prune.refit.networkwise import NetworkFit
from onnx_reap.prune.sparsity.records import Tiling

SCHEMA = 1
"""Version of the JSON file; raised when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Figures:
    """Size and speed of one model."""

    macs: int  # Multiply-accumulates per sample
    params: int  # Floating-point parameters
    bytes: int
    # Median time of one run and its interquartile range, in milliseconds: of one sample, or of one
    # batch where the model's batch size is fixed. A single run has no range
    latency_ms: float
    latency_spread_ms: float | None


@dataclass(frozen=True)
class Loss(EstimatedLoss):
    """What the pruned model lost, where that was bounded, and what was allowed."""

    limit: float


@dataclass(frozen=True)
class GroupResult:
    """What became of one channel group."""

    name: str
    before: int
    after: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    # Local error of the removal, as a fraction of the consumers' output variance
    error: float | None


@dataclass(frozen=True)
class Report:
    """Everything that a run tells."""

    version: str
    settings: Mapping[str, Any]  # Those that differ from the defaults
    calibration: str  # Where the data came from
    provider: str  # Execution provider that latencies were measured on
    before: Figures
    after: Figures
    # On the samples that weights were fitted to, and on samples kept aside
    fitted: Quality | None
    held_out: Quality | None
    loss: Loss | None  # On samples kept aside
    lossless: Lossless | None  # What went, where nothing was to be lost
    groups: tuple[GroupResult, ...]
    frozen: tuple[FrozenChannels, ...]
    refits: tuple[LayerRefit, ...]
    blocks: tuple[BlockFit, ...]
    network: NetworkFit | None  # All layers, where they were tuned together
    tiling: Tiling | None  # Weights that were zeroed in a pattern
    seconds: Mapping[str, float]  # Time by stage
    notes: tuple[str, ...]  # Warnings, each a sentence
    # Layers that became two thinner ones, and groups in another basis
    factors: tuple[Factorised, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; numbers that are not finite become None."""
        return {"schema": SCHEMA, **plain(asdict(self))}


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return JSON values as the bytes of their file."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()
