"""The command line: argparse over the table of flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from onnx_reap.cli.flags import FLAGS, Flag
from onnx_reap.errors import UsageError
from onnx_reap.options import EXECUTED, Settings
from onnx_reap.validation import check_budgets, check_lossless
from onnx_reap.version import __version__
from onnx_reap.zeros import check_zeros

REPLAYED = ("input_shapes", *EXECUTED)
"""Settings that still mean something when a plan is replayed."""


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


@dataclass(frozen=True)
class Arguments:
    """One command line.

    Attributes
    ----------
    settings : dict of str to object
        Only what was given, by the names of `Settings`.
    """

    model: Path
    output: Path
    data: Path | None
    report: Path | None
    plan: Path | None
    from_plan: Path | None
    quiet: bool
    settings: dict[str, Any]


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read a command line.

    Raises
    ------
    UsageError
        If it can't be understood, or contradicts itself.
    """
    written = _with_values(sys.argv[1:] if argv is None else argv)
    given, settings = split_settings(make_parser().parse_args(written))
    check_budgets(settings)
    check_lossless(settings)
    check_zeros(settings)
    arguments = Arguments(**given, settings=settings)
    if arguments.from_plan is not None:
        idle = [name for name in settings if name not in REPLAYED]
        idle += ["data"] if arguments.data is not None else []
        if idle:
            flags = ", ".join(option_of(name) for name in idle)
            raise UsageError(f"--from-plan replays a cut as it was; it can't go with {flags}")
    return arguments


def _with_values(argv: Sequence[str]) -> list[str]:
    """Give flags that stand alone their value, so that a file behind one is not taken for it."""
    alone = {option_of(name): flag for name, flag in FLAGS.items() if flag.alone is not None}
    return [
        f"{arg}={alone[arg].alone}"
        if arg in alone and after not in (alone[arg].choices or ())
        else arg
        for arg, after in zip(argv, [*argv[1:], ""], strict=False)
    ]


def split_settings(parsed: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is no setting, and the settings that were given, by name."""
    given = vars(parsed)
    settings = {name: given.pop(name) for name in FLAGS if name in given}
    if "input_shapes" in settings:
        settings["input_shapes"] = by_name(settings["input_shapes"])
    return given, settings


def read_files(model: Path, settings: Mapping[str, Any], **others: Path | None) -> dict[str, Path]:
    """Return all files that a run reads, by what the user calls them: outputs may not be these.

    Parameters
    ----------
    model : Path
        Files of its external data are among them.
    settings : mapping of str to object
        Those that were given.
    others : Path
        Options that are no settings, by name.
    """
    from onnx_reap.onnxio.save import named_data

    named = {name: settings.get(name) for name in ("latency_table", "layer_ratios", "labels")}
    paths = {
        "the input model": model,
        **{option_of(name): path for name, path in (named | others).items()},
        **{
            f"--custom-op-library {path}": Path(path)
            for path in settings.get("custom_op_library", ())
        },
    }
    return {name: path for name, path in paths.items() if path is not None} | named_data(model)


def make_base(**options: Any) -> argparse.ArgumentParser:
    """Build a parser without arguments, which raises UsageError instead of exiting."""
    return _Parser(allow_abbrev=False, **options)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line; it raises UsageError instead of exiting."""
    parser = make_base(
        prog="onnx-reap",
        description="Prune channels of a trained ONNX model and repair the weights that stay by "
        "least squares, without retraining.",
        epilog="onnx-reap inspect in.onnx tells what could be pruned, and what could not and why; "
        "onnx-reap profile in.onnx -o latency.json measures a model's layers for "
        "--target-latency; onnx-reap sweep in.onnx -o sweep/ makes models for many targets at "
        "once; see --help of each. Exit status: 0 done, 1 refused, 2 usage, 3 target not reached "
        "or check failed, 130 interrupted.",
        usage="onnx-reap in.onnx out.onnx [--data PATH] [options]\n"
        "       onnx-reap inspect in.onnx [--json FILE] [options]\n"
        "       onnx-reap profile in.onnx -o latency.json [options]\n"
        "       onnx-reap sweep in.onnx -o sweep/ [--data PATH] [options]",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="in.onnx", help="trained model; it is only read")
    add("output", type=Path, metavar="out.onnx", help="where the pruned model goes")
    add_run(parser, [field.name for field in fields(Settings)])
    _add_outputs(parser.add_argument_group("output"))
    return parser


def add_run(parser: argparse.ArgumentParser, settings: Sequence[str]) -> None:
    """Add --data and the flags of settings to a parser, in groups."""
    groups = {
        name: parser.add_argument_group(name) for name in ("budget", "data", "method", "zeros")
    }
    groups["data"].add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help=".npy or .npz file, or folder of images (default: made-up inputs)",
    )
    for name in settings:
        add_flag(groups[FLAGS[name].group], name, FLAGS[name])


def add_usual(group: argparse._ActionsContainer, *, quiet: str) -> None:
    """Add the flags that every command has."""
    group.add_argument("-q", "--quiet", action="store_true", help=quiet)
    group.add_argument("--version", action="version", version=f"onnx-reap {__version__}")


def add_flag(group: argparse._ActionsContainer, name: str, flag: Flag) -> None:
    """Add the flag of a setting to a parser, or to a group of its arguments."""
    default = getattr(Settings, name)
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    if isinstance(default, bool):
        action = "store_false" if default else "store_true"
        group.add_argument(option_of(name), action=action, help=flag.help, **options)
        return
    if flag.alone is not None:
        options |= {"nargs": "?", "const": flag.alone}
    group.add_argument(
        option_of(name),
        action="append" if flag.repeatable else "store",
        type=flag.type,
        metavar=flag.metavar,
        choices=flag.choices,
        help=f"{flag.help} (default: {default if flag.default is None else flag.default})",
        **options,
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--report", type=Path, metavar="FILE", help="write the report as JSON")
    add(
        "--plan",
        type=Path,
        metavar="FILE",
        help="write the plan: which channels stay, to edit or replay",
    )
    add("--from-plan", type=Path, metavar="FILE", help="cut as planned; needs no data, no refit")
    add_usual(group, quiet="print nothing but warnings and errors")


def option_of(name: str) -> str:
    """Return the flag of a setting; one that is on by default has a flag that turns it off."""
    negated = getattr(Settings, name, None) is True
    return "--" + ("no_" * negated + name).replace("_", "-")


def by_name(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Collect the shapes of repeated `--input-shapes`; refuse two of one input."""
    named = dict(shapes)
    if len(named) < len(shapes):
        raise UsageError("--input-shapes names an input twice", got=", ".join(n for n, _ in shapes))
    return named
