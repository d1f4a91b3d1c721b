"""What a user can ask for; the command's flags and the Python keywords are these fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_reap.prune.criteria.table import CRITERIA

if TYPE_CHECKING:
    from onnx_reap.measure.latency.table import LatencyTable

DEFAULT_MAX_DROP = 0.01
"""Loss at most where the user names no budget."""

DEFAULT_TARGET_MACS = 0.6
"""Fraction of the multiply-accumulates that is left then if no data tells what is lost."""

DEFAULT_TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Fractions of the multiply-accumulates that a sweep leaves where the user names none."""

RATIOS = ("ratio", "layer_ratios")
"""Settings that tell how much of each group is to go;"""

TARGETS = ("target_macs", "target_params", "target_size", "target_latency", "max_drop")
"""or what the model is to reach as a whole."""

BUDGETS = (*RATIOS, *TARGETS)
"""Settings that ask for fewer channels."""

EXECUTED = ("provider", "custom_op_library")
"""Settings that tell how models are run."""

PROFILED = ("input_shapes", *EXECUTED, "round_to", "min_channels", "include", "exclude")
"""Settings that a latency table depends on."""

INSPECTED = (*PROFILED, "vanish")
"""Settings that tell what could be pruned, before anything is estimated."""


LOSSLESS = (
    *("lossless", "input_shapes", "include", "exclude", *EXECUTED, "seed"),
    *("samples", "resize", "crop", "mean", "std", "scale", "color"),
)
"""Settings that mean something where nothing may be lost; the last ones where there is data."""


@dataclass(frozen=True)
class Settings:
    """All settings of one run; the defaults are those of the command.

    Attributes
    ----------
    samples : int, optional
        Use at most this many calibration samples (chosen by `seed`).
    input_shapes : mapping of str to tuple of int, optional
        Shapes for inputs with dynamic dimensions, batch included.
    resize, crop, mean, std, scale, color
        Preprocessing, see `onnx_reap.data.Preprocess`.
    ratio : float, optional
        Fraction of the channels to remove from every group, in (0, 1).
    target_macs, target_params : float, optional
        What the result may have at most: a fraction of the original where it is 1 or less, else a
        number of multiply-accumulates or parameters.
    target_size : float, optional
        Bytes of the file at most: a fraction of the original's where it is 1 or less.
    target_latency : (float, str), optional
        Time that a run may take at most: milliseconds `(5, "ms")`, or a factor of what the original
        takes `(0.6, "x")`. Python takes `"5ms"` and `"0.6x"`, too. Cut models are timed on this
        machine, unless there is a table.
    latency_table : LatencyTable, or path of a file with one, optional
        Where latencies are looked up, see `onnx_reap.profile`.
    lossless : bool
        Whether to remove no channels but those without which the model computes the same, by what
        the weights alone tell. Contradicts budgets, and what choosing and refitting needs.
    max_drop : float, optional
        Loss that is allowed, as a fraction; the smallest model within it is made. The loss is the
        share of samples that are put into another class, or the relative output error of models
        that are no classifiers; see `labels` and `evaluate`.
    labels : path or array_like of int, optional
        Class of every sample, in the order of the data: `max_drop` then bounds the accuracy lost,
        and the criterion `pls` explains classes instead of outputs.
    evaluate : str or callable, optional
        `module:function`, or a function, that takes an onnx.ModelProto and returns a number, more
        for better models: `max_drop` then bounds its relative decrease.
    layer_ratios : mapping of str to float, or path of a JSON file with one, optional
        Fraction of the channels to remove, by glob on the names of the nodes that make them.
    include, exclude : sequence of str
        Globs on node names: only these, or not these, may lose output channels. Python takes a
        single string, too.
    min_channels : int
        Channels that every group keeps at least that doesn't vanish.
    vanish : bool
        Whether a budget may take residual branches wholly, where all that is left of them is a
        constant. At equal ratios none goes.
    round_to : int, optional
        Widths become multiples of this. None is automatic: 8 for groups of 64 channels and more,
        4 from 16 on, else 1.
    criterion : str
        Which channels go first: a name in `onnx_reap.prune.criteria.table.CRITERIA`.
    reap_space : str
        What removed channels are reconstructed from while channels are chosen: `patch`, every tap
        of a kernel on its own; `channel`, whole feature maps, which takes less time and memory. The
        refit always takes patches.
    allocation : str
        How a budget is spread over groups: `pro` by what the model's output feels, `local` by the
        error of the layers behind each group, `uniform` at equal ratios.
    metric : str
        How outputs are compared: `kl` for class scores or probabilities, `error` for the squared
        error relative to the variance, `auto` as each output looks.
    low_rank : str, optional
        `also` writes layers as two thinner ones where that loses less than removing channels, and
        each is faster on this machine, and channels between linear layers in a better basis;
        `only` does so and leaves other channels alone. Python takes True for `also`.
    refit : bool
        Whether the weights that stay are fitted to make up for what went.
    joint_refit : int, optional
        Passes over the samples in which the layers of each block are refitted together, once every
        layer was alone. None is automatic: 10 where they take at most 3e11 multiply-accumulates,
        which is a minute or less, otherwise 0.
    positions : int
        Output positions sampled per image and layer.
    tile : str, optional
        Rows and columns of the tiles that weights are zeroed in, such as `8x1`: that many outputs
        and input channels. Zeros come after the channels that a budget removes; without a budget no
        channel goes.
    tile_sparsity : float, optional
        Share of the weights to zero in such tiles, over all layers that have them.
    pattern : str, optional
        `2:4` zeroes 2 of every 4 weights along the input channels.
    permutation : bool
        Whether channels change places before weights are zeroed, so that less is lost. The function
        stays the same.
    seed : int
    provider : str, optional
        Execution provider of onnxruntime (`cpu`, `cuda`, or a full name).
    custom_op_library : sequence of path
        Shared libraries of operators that onnxruntime lacks. Python takes a single path, too.
    """

    samples: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    color: str = "rgb"
    ratio: float | None = None
    target_macs: float | None = None
    target_params: float | None = None
    target_size: float | None = None
    target_latency: tuple[float, str] | None = None
    latency_table: LatencyTable | str | Path | None = None
    max_drop: float | None = None
    lossless: bool = False
    labels: Any = None
    evaluate: str | Callable[[Any], float] | None = None
    layer_ratios: Mapping[str, float] | str | Path | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    min_channels: int = 1
    vanish: bool = True
    round_to: int | None = None
    criterion: str = "reap"
    reap_space: str = "patch"
    allocation: str = "pro"
    metric: str = "auto"
    low_rank: str | None = None
    refit: bool = True
    joint_refit: int | None = None
    positions: int = 32
    tile: str | None = None
    tile_sparsity: float | None = None
    pattern: str | None = None
    permutation: bool = True
    seed: int = 0
    provider: str | None = None
    custom_op_library: Sequence[str | Path] = ()

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

    def chosen(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults; of a table, only what it is of."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if is_dataclass(self.latency_table):
            values["latency_table"] = str(self.latency_table)
        if self.labels is not None and not isinstance(self.labels, (str, Path)):
            values["labels"] = f"{len(self.labels)} given"
        if callable(self.evaluate):
            values["evaluate"] = f"{self.evaluate.__module__}:{self.evaluate.__qualname__}"
        return {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}


ZEROED = ("tile", "tile_sparsity", "pattern", "permutation")
"""Settings that tell which weights become zero in what stays."""

_NOT_SWEPT = (
    *ZEROED,
    *("ratio", "layer_ratios", "target_macs", "target_params", "target_size", "target_latency"),
    *("latency_table", "max_drop", "lossless", "labels", "evaluate", "low_rank"),
)
SWEPT = tuple(field.name for field in fields(Settings) if field.name not in _NOT_SWEPT)
"""Settings that hold for all models of a sweep: all but the budgets and what belongs to them."""
