"""The command's flags: one row for every setting, read by argparse.

Names and defaults come from `Settings`; a flag that the user leaves out is left out of the result
too, so that defaults live in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_reap import parsing
from onnx_reap.options import DEFAULT_MAX_DROP, DEFAULT_TARGET_MACS
from onnx_reap.prune.criteria.table import CRITERIA


@dataclass(frozen=True)
class Flag:
    """How one setting is written on the command line; `alone` is its value where none follows."""

    group: str
    help: str
    type: Callable[[str], Any] = str
    metavar: str | None = None
    repeatable: bool = False
    choices: tuple[str, ...] | None = None
    alone: str | None = None
    default: str | None = None


FLAGS = {
    "ratio": Flag(
        "budget",
        "fraction of the channels to remove from every group, such as 0.3 or 30%%",
        parsing.fraction,
        "R",
        default="none",
    ),
    "target_macs": Flag(
        "budget",
        "multiply-accumulates that the result may have at most: a fraction of the original (0.6, "
        "60%%) or a number per sample (1.2G, 500M)",
        parsing.target,
        "X",
        default=f"{DEFAULT_TARGET_MACS:g} if neither a budget nor data is given",
    ),
    "target_params": Flag(
        "budget",
        "parameters that the result may have at most: a fraction (0.6, 60%%) or a number (250k)",
        parsing.target,
        "X",
        default="none",
    ),
    "target_size": Flag(
        "budget",
        "size of the file at most: fraction of the original's, or bytes such as 5M",
        parsing.target,
        "X",
        default="none",
    ),
    "target_latency": Flag(
        "budget",
        "time of a run at most, on this machine or by --latency-table: 5ms, or a factor of what "
        "the original takes (0.6x, 60%%)",
        parsing.latency,
        "T",
        default="none",
    ),
    "max_drop": Flag(
        "budget",
        "loss at most, such as 1%%: share of the held-out samples that are put into another class, "
        "relative output error of other models, or what --labels or --evaluate measure; makes the "
        "smallest such model",
        parsing.fraction,
        "X",
        default=f"{DEFAULT_MAX_DROP:.0%}".replace("%", "%%") + " if there is data but no budget",
    ),
    "lossless": Flag(
        "budget",
        "remove the channels without which the model computes the same, and no others: dead ones, "
        "duplicates and multiples of others, found in the weights; needs no data",
    ),
    "latency_table": Flag(
        "budget",
        "latencies that onnx-reap profile measured, on whatever machine",
        Path,
        "FILE",
        default="none",
    ),
    "labels": Flag(
        "budget",
        "classes of the samples, .npy or .npz: --max-drop then bounds the accuracy that is lost, "
        "and --criterion pls explains them instead of the outputs",
        Path,
        "FILE",
        default="none",
    ),
    "evaluate": Flag(
        "budget",
        "function of an onnx.ModelProto that returns more for better models: --max-drop then "
        "bounds its relative decrease",
        str,
        "MODULE:FUNCTION",
        default="none",
    ),
    "layer_ratios": Flag(
        "budget",
        'JSON file of fractions to remove by glob on node names, {"/layer1/*": 0.5}',
        Path,
        "FILE",
        default="none",
    ),
    "exclude": Flag(
        "budget",
        "nodes that keep all their output channels; repeatable",
        str,
        "GLOB",
        repeatable=True,
        default="none",
    ),
    "include": Flag(
        "budget",
        "the only nodes that may lose output channels; repeatable",
        str,
        "GLOB",
        repeatable=True,
        default="all",
    ),
    "min_channels": Flag(
        "budget",
        "channels that every group keeps at least that doesn't vanish",
        parsing.positive,
        "N",
    ),
    "vanish": Flag("budget", "take no residual branch wholly, make all of them thinner at most"),
    "round_to": Flag(
        "budget",
        "make widths multiples of N, or leave them; auto: 8 for groups of 64 channels and more, "
        "4 from 16 on, else 1",
        parsing.round_to,
        "N|auto",
        default="auto",
    ),
    "samples": Flag(
        "data", "calibration samples to use at most", parsing.positive, "N", default="all"
    ),
    "positions": Flag(
        "data", "output positions to look at per sample and layer", parsing.positive, "N"
    ),
    "input_shapes": Flag(
        "data",
        "shape of an input with dynamic dimensions, batch included, such as x:1,3,224,224; "
        "repeatable",
        parsing.named_shape,
        "NAME:SHAPE",
        repeatable=True,
        default="from the data",
    ),
    "resize": Flag(
        "data",
        "pixels of the shorter side, or height,width",
        parsing.size,
        "N|H,W",
        default="the model's",
    ),
    "crop": Flag(
        "data",
        "pixels of the centre crop, or height,width",
        parsing.size,
        "N|H,W",
        default="the model's, after --resize N",
    ),
    "scale": Flag(
        "data", "factor on stored values, before --mean and --std", parsing.number, "X", default="1"
    ),
    "mean": Flag(
        "data",
        "value to subtract, one or one a channel, such as 0.485,0.456,0.406",
        parsing.numbers,
        "X,X,X",
        default="0",
    ),
    "std": Flag(
        "data",
        "value to divide by, one or one a channel, such as 0.229,0.224,0.225",
        parsing.numbers,
        "X,X,X",
        default="1",
    ),
    "color": Flag("data", "colour order that the model expects of images", choices=("rgb", "bgr")),
    "criterion": Flag(
        "method",
        "what decides which channels go: "
        + "; ".join(f"{name}, {each.goes_by}" for name, each in CRITERIA.items()),
        choices=tuple(CRITERIA),
    ),
    "reap_space": Flag(
        "method",
        "what removed channels are reconstructed from while channels are chosen: every tap of a "
        "kernel on its own, or whole feature maps, which takes less time and memory",
        choices=("patch", "channel"),
    ),
    "allocation": Flag(
        "method",
        "how a target is spread over groups: by what the output feels, by the error of the layers "
        "behind a group, or at equal ratios",
        choices=("pro", "local", "uniform"),
    ),
    "metric": Flag(
        "method",
        "how --allocation pro compares outputs: as each one looks, as class scores (kl), or by "
        "squared error",
        choices=("auto", "kl", "error"),
    ),
    "low_rank": Flag(
        "method",
        "write layers as two thinner ones where that loses less than removing channels, and both "
        "together are faster on this machine, and channels between linear layers in a better "
        "basis; only: leave other channels alone",
        choices=("also", "only"),
        alone="also",
        default="off; also where no value follows",
    ),
    "refit": Flag("method", "leave the weights that stay as they are"),
    "joint_refit": Flag(
        "method",
        "passes over the samples in which the layers of each block are refitted together, once "
        "every layer was alone; auto: 10 where they are quick, else 0",
        parsing.passes,
        "N|auto",
        default="auto",
    ),
    "tile": Flag(
        "zeros",
        "zero weights in tiles of so many outputs times so many input channels, such as 8x1; after "
        "the channels that a budget removes, of which there are none without one",
        parsing.tile,
        "RxC",
        default="none",
    ),
    "tile_sparsity": Flag(
        "zeros",
        "share of the weights to zero in tiles, over all layers that have them",
        parsing.fraction,
        "S",
        default="none",
    ),
    "pattern": Flag(
        "zeros",
        "zero 2 of every 4 weights along the input channels, as sparse kernels take them",
        choices=("2:4",),
        default="none",
    ),
    "permutation": Flag(
        "zeros",
        "leave channels where they are; otherwise they change places, so that less is lost",
    ),
    "seed": Flag("method", "seed of all random choices", parsing.seed, "N"),
    "provider": Flag(
        "method",
        "execution provider of onnxruntime: cpu, cuda or a full name",
        metavar="NAME",
        default="cuda where onnxruntime has it, else cpu",
    ),
    "custom_op_library": Flag(
        "method",
        "shared library of operators that onnxruntime lacks; repeatable",
        Path,
        "FILE",
        repeatable=True,
        default="none",
    ),
}
