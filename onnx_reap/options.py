"""The table of options: a field of `Settings` is one, and flags, checks and help derive from it.

A new option takes a field in `Settings` and its type in one of the classes of keywords, which says
the commands that take it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from onnx_reap import parsing
from onnx_reap.fields import CRITERIA, Record, option, options_of

DEFAULT_MAX_DROP = 0.01  # largest loss if there is data, and the user sets no budget
DEFAULT_TARGET_MACS = 0.6  # largest fraction of the MACs if there is neither data nor a budget
DEFAULT_TIME_LIMIT = 300.0  # seconds
DEFAULT_TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the MACs, where a sweep is given none

Paths = str | Path | Sequence[str | Path]
Pixels = int | Sequence[int]


class ReplayKeywords(TypedDict, total=False):
    """Settings that mean something where a plan is replayed."""

    input_shapes: Mapping[str, Sequence[int]] | None
    provider: str | None
    threads: int | None
    custom_op_library: Paths


class ProfileKeywords(ReplayKeywords, total=False):
    """Settings that a latency table depends on."""

    include: str | Sequence[str]
    exclude: str | Sequence[str]
    min_channels: int
    round_to: int | str | None


class InspectKeywords(ProfileKeywords, total=False):
    """Settings that tell what could be pruned, before anything is estimated."""

    vanish: bool


class SweepKeywords(InspectKeywords, total=False):
    """Settings that hold for all models of a sweep: all but budgets and what belongs to them."""

    samples: int | None
    resize: Pixels | None
    crop: Pixels | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    scale: float | None
    color: str
    criterion: str
    reap_space: str
    allocation: str
    metric: str
    refit: bool
    joint_refit: int | str | None
    tune: int | str | None
    tune_time: float | str | None
    time_limit: float | str | None
    augment: str
    positions: int
    seed: int


class RunKeywords(SweepKeywords, total=False):
    """All settings, as Python passes them; `Settings` holds them as the command reads them."""

    ratio: float | str | None
    target_macs: float | str | None
    target_params: float | str | None
    target_size: float | str | None
    target_latency: tuple[float, str] | str | None
    latency_table: Any  # a LatencyTable, or the path of one
    max_drop: float | str | None
    lossless: bool
    labels: Any  # a path, or integers, one a sample
    evaluate: str | Callable[[Any], float] | None
    layer_ratios: Mapping[str, float] | str | Path | None
    low_rank: str | bool | None
    tile: str | None
    tile_sparsity: float | str | None
    pattern: str | None
    permutation: bool


_data = partial(option, group="data", lossless=True)
_budget = partial(option, group="budget")
_ratio, _target = partial(_budget, role="ratio"), partial(_budget, role="target")
_method = partial(option, group="method")
_zeros = partial(option, group="zeros", role="zeros")


@dataclass(frozen=True)
class Settings(Record):
    """All settings of one run: options by name, with the defaults of the command.

    `onnx-reap --help` describes them; Python's `refit=False` is the command's `--no-refit`.
    """

    samples: int | None = _data(parsing.POSITIVE)(
        "maximum number of calibration samples", shown="all"
    )
    input_shapes: Mapping[str, tuple[int, ...]] | None = _data(parsing.SHAPES)(
        "shape of an input with dynamic dimensions, batch included, such as x:1,3,224,224; "
        "repeatable",
        shown="from the data",
        shown_without_data="the model's own",
    )
    resize: int | tuple[int, int] | None = _data(parsing.PIXELS)(
        "pixels of the shorter side, or height,width", shown="the model's"
    )
    crop: int | tuple[int, int] | None = _data(parsing.PIXELS)(
        "pixels of the centre crop, or height,width", shown="the model's, after --resize N"
    )
    mean: tuple[float, ...] | None = _data(parsing.NUMBERS)(
        "value to subtract, one or one a channel, such as 0.485,0.456,0.406", shown="0"
    )
    std: tuple[float, ...] | None = _data(parsing.NUMBERS)(
        "value to divide by, one or one a channel, such as 0.229,0.224,0.225", shown="1"
    )
    scale: float | None = _data(parsing.NUMBER)(
        "factor on stored values, before --mean and --std", shown="1"
    )
    color: str = _data(parsing.one_of("rgb", "bgr"))(
        "colour order that the model expects of images", "rgb"
    )
    ratio: float | None = _ratio(parsing.FRACTION)(
        "fraction of the channels to remove from every group, such as 0.3 or 30%"
    )
    target_macs: float | None = _target(parsing.TARGET)(
        "maximum multiply-accumulates of the pruned model: a fraction of the original (0.6, 60%) "
        "or a number per sample (1.2G, 500M)",
        shown=f"{DEFAULT_TARGET_MACS:g} if neither a budget nor data is given",
    )
    target_params: float | None = _target(parsing.TARGET)(
        "maximum parameters of the pruned model: a fraction (0.6, 60%) or a number (250k)"
    )
    target_size: float | None = _target(parsing.TARGET)(
        "maximum size of the file: a fraction of the original's, or bytes such as 5M"
    )
    target_latency: tuple[float, str] | None = _target(parsing.LATENCY)(
        "maximum time of a run, on this machine or by --latency-table: 5ms, or a factor of what "
        "the original takes (0.6x, 60%)"
    )
    latency_table: Any = _budget(parsing.TABLE)(
        "latencies that onnx-reap profile measured, on any machine"
    )
    max_drop: float | None = _target(parsing.FRACTION)(
        "maximum loss, such as 1%: the share of held-out samples that change class, the relative "
        "output error of models that are no classifiers, or what --labels or --evaluate measure; "
        "finds the smallest such model",
        shown=f"{DEFAULT_MAX_DROP:.0%} if there is data but no budget",
    )
    lossless: bool = _budget(parsing.SWITCH)(
        "remove the channels without which the model computes the same, and no others: dead ones "
        "and duplicates, found in the weights; needs no data",
        False,
        lossless=True,
    )
    labels: Any = _budget(parsing.LABELS)(
        "classes of the samples, .npy or .npz: --max-drop then bounds the accuracy that is lost, "
        "and --criterion pls explains them instead of the outputs"
    )
    evaluate: str | Callable[[Any], float] | None = _budget(parsing.FUNCTION)(
        "function of an onnx.ModelProto that returns more for better models: --max-drop then "
        "bounds its relative decrease"
    )
    layer_ratios: Mapping[str, float] | str | Path | None = _ratio(parsing.RATIOS)(
        'JSON file of fractions to remove by glob on node names, {"/layer1/*": 0.5}'
    )
    include: Sequence[str] = _budget(parsing.GLOBS)(
        "the only nodes that may lose output channels; repeatable", (), shown="all", lossless=True
    )
    exclude: Sequence[str] = _budget(parsing.GLOBS)(
        "nodes that keep all their output channels; repeatable", (), lossless=True
    )
    min_channels: int = _budget(parsing.POSITIVE)(
        "channels that layers keep of every group at least, unless removed wholly", 1
    )
    vanish: bool = _budget(parsing.SWITCH)("remove no residual branch wholly", True)
    round_to: int | None = _budget(parsing.MULTIPLE)(
        "keep multiples of N channels, or all; auto: 8 for groups of 32 channels and more, 4 from "
        "16 on, else 1",
        shown="auto",
    )
    criterion: str = _method(parsing.one_of(*CRITERIA))(
        "what decides which channels go: "
        + "; ".join(f"{name}, {each.goes_by}" for name, each in CRITERIA.items()),
        "reap",
    )
    reap_space: str = _method(parsing.one_of("patch", "channel"))(
        "what removed channels are reconstructed from while channels are chosen: every tap of a "
        "kernel on its own, or whole feature maps, which takes less time and memory",
        "patch",
    )
    allocation: str = _method(parsing.one_of("pro", "local", "uniform"))(
        "how a budget is spread over groups: by the change of the output, by the error of the "
        "layers behind a group, or at equal ratios",
        "pro",
    )
    metric: str = _method(parsing.one_of("auto", "kl", "error"))(
        "how --allocation pro compares outputs: as suits each one, as class scores (kl), or by "
        "squared error",
        "auto",
    )
    low_rank: str | None = _method(parsing.one_of("also", "only"))(
        "each layer is pruned, factorised, both or left alone, whichever loses least; factors must "
        "be faster on this machine, and channels between linear layers get a better basis; only: "
        "remove no other channels",
        alone="also",
        shown="off; also where no value follows",
    )
    refit: bool = _method(parsing.SWITCH)("leave the weights that stay as they are", True)
    joint_refit: int | None = _method(parsing.PASSES)(
        "passes over the samples in which the layers of each block are refitted together, once "
        "every layer was alone; auto: 10, or fewer where --time-limit is short",
        shown="auto",
    )
    tune: int | None = _method(parsing.PASSES)(
        "passes over the samples in which all layers are tuned together, last of all; auto: as "
        "many as bring something and the time allows",
        shown="auto",
    )
    tune_time: float | None = _method(parsing.DURATION)(
        "maximum time of --tune auto, such as 2m", shown="what --time-limit leaves"
    )
    time_limit: float | None = _method(parsing.DURATION)(
        "time in which the run should end, such as 90s, 5m or 1h: --joint-refit auto and --tune "
        "auto make as many passes as it allows",
        DEFAULT_TIME_LIMIT,
        shown="5m",
    )
    augment: str = _method(parsing.one_of("auto", "none", "image", "signal"))(
        "copies of the samples to fit weights to, too: mirrored and shifted or zoomed (image), "
        "shifted in time and with a little noise (signal), as the inputs look (auto), or none",
        "auto",
    )
    positions: int = option(parsing.POSITIVE, group="data")(
        "output positions to sample per image and layer", 32
    )
    tile: str | None = _zeros(parsing.TILE)(
        "zero weights in tiles of so many outputs times so many input channels, such as 8x1; "
        "without a budget, no channel is removed"
    )
    tile_sparsity: float | None = _zeros(parsing.FRACTION)(
        "share of the weights to zero in tiles, over all layers that have them"
    )
    pattern: str | None = _zeros(parsing.one_of("2:4"))(
        "zero 2 of every 4 weights along the input channels, as sparse kernels expect"
    )
    permutation: bool = _zeros(parsing.SWITCH)(
        "leave channels where they are; otherwise they change places, so that less is lost", True
    )
    seed: int = _method(parsing.SEED)("seed of all random choices", 0, lossless=True)
    provider: str | None = _method(parsing.NAME)(
        "execution provider of onnxruntime: cpu, cuda or a full name",
        shown="cuda where onnxruntime has it, else cpu",
        lossless=True,
    )
    threads: int | None = _method(parsing.POSITIVE)(
        "threads that onnxruntime and BLAS take on the CPU, also where latencies are measured",
        shown="as many as the process has cores",
        lossless=True,
    )
    custom_op_library: Sequence[str | Path] = _method(parsing.PATHS)(
        "shared library of operators that onnxruntime lacks; repeatable", (), lossless=True
    )

    @property
    def zeroes(self) -> bool:
        """Whether weights are set to zero in a pattern."""
        return self.tile is not None or self.pattern is not None

    @property
    def estimates(self) -> bool:
        """Whether samples are run to choose channels or to repair weights."""
        runs = CRITERIA[self.criterion].runs or self.refit or self.low_rank is not None
        return not self.lossless and runs

    @property
    def names_budget(self) -> bool:
        """Whether fewer channels are asked for."""
        return any(getattr(self, name) is not None for name in BUDGETS)


OPTIONS = options_of(Settings)
RATIOS = tuple(name for name, each in OPTIONS.items() if each.role == "ratio")
TARGETS = tuple(name for name, each in OPTIONS.items() if each.role == "target")
BUDGETS = (*RATIOS, *TARGETS)
