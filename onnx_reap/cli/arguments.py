"""The command line: argparse over the table of options, and the options that are no settings."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

from onnx_reap import __version__
from onnx_reap.errors import UsageError
from onnx_reap.fields import Option
from onnx_reap.options import DEFAULT_TARGETS, OPTIONS
from onnx_reap.parsing import FRACTIONS, PATH, SWITCH

GROUPS = ("budget", "data", "method", "zeros", "output")
_every = partial(Option, commands=("run", "inspect", "profile", "sweep"))
_run, _inspect = partial(Option, commands=("run",)), partial(Option, commands=("inspect",))
_profile, _sweep = partial(Option, commands=("profile",)), partial(Option, commands=("sweep",))
_model: dict[str, Any] = {"kind": PATH, "group": "", "positional": True}
_output: dict[str, Any] = {"kind": PATH, "group": "output", "written": True}
_required = _output | {"short": "-o", "required": True}

ARGUMENTS = (
    _every("model", help="trained model; it is only read", metavar="in.onnx", **_model),
    _run("output", help="where the pruned model goes", metavar="out.onnx", written=True, **_model),
    _profile("output", help="where the table goes", **_required),
    _sweep("output", help="folder of all files; made if missing", metavar="DIR", **_required),
    _sweep(
        "targets",
        FRACTIONS,
        "maximum multiply-accumulates of the models, as fractions of the original such as 0.8,0.6 "
        "or 80%,60%",
        "budget",
        shown=f"{','.join(map(str, DEFAULT_TARGETS))}, as far as these can be reached",
    ),
    Option(
        "data",
        PATH,
        ".npy or .npz file, or folder of images",
        "data",
        metavar="PATH",
        shown="synthetic inputs",
        commands=("run", "inspect", "sweep"),
    ),
    _sweep("labels", PATH, "classes of the samples, .npy or .npz, to measure accuracy", "data"),
    _inspect("json", help="write all that is found", **_output),
    _run("report", help="write the report as JSON", **_output),
    _run("plan", help="write the plan: which channels stay, to edit or replay", **_output),
    _run("from_plan", PATH, "cut as planned; needs no data, no refit", "output"),
    _sweep("plans_only", SWITCH, "measure all models, but write plans only", "output", False),
    _every("quiet", SWITCH, "print nothing but warnings and errors", "output", False, short="-q"),
)
"""Options that are no settings."""


LIKE = 0.65  # likeness of a flag that is suggested: --samples for --sam, no --crop for --max-drop


@dataclass(frozen=True)
class Command:
    """What `onnx-reap` does by the first argument, or without one of them."""

    name: str
    keywords: type  # The settings that it takes
    description: str
    usage: str
    epilog: str | None = None

    @property
    def options(self) -> list[Option]:
        """All options, settings last."""
        own = [option for option in ARGUMENTS if self.name in option.commands]
        settings = [OPTIONS[name] for name in OPTIONS if name in self.keywords.__annotations__]
        if not any(option.name == "data" for option in own):
            settings = [replace(o, shown=o.shown_without_data or o.shown) for o in settings]
        return own + settings

    @property
    def flags(self) -> set[str]:
        """What the command's options are called, switches also as hints about them say it."""
        options = [option for option in self.options if not option.positional]
        return {f for o in options for f in (o.flag, o.positive_flag)} | {"--help", "--version"}


@dataclass(frozen=True)
class Arguments:
    """One command line."""

    command: Command
    given: dict[str, Any]  # Options that are no settings, all of the command
    settings: dict[str, Any]  # Only what was given

    def __getattr__(self, name: str) -> Any:
        """Return an option that is no setting."""
        try:
            return self.given[name]
        except KeyError:
            raise AttributeError(name) from None

    def outputs(self) -> dict[str, Path]:
        """Return the files to write, by what the user calls them."""
        return self._files(written=True)

    def inputs(self) -> dict[str, Path]:
        """Return all files that are read, the model's external data among them."""
        return self._files(written=False) | self.external_data

    @cached_property
    def external_data(self) -> dict[str, Path]:
        """The files that weights of the model lie in, by what the user calls them."""
        from onnx_reap.onnxio.save import named_data

        return named_data(self.given["model"])

    def _files(self, *, written: bool) -> dict[str, Path]:
        values = self.given | self.settings
        found: dict[str, Path] = {}
        for option in self.command.options:
            if option.written == written:
                found |= option.files(values.get(option.name))
        return found


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def parse(command: Command, argv: Sequence[str]) -> Arguments:
    """Read a command line, without the command's name."""
    options, parser = command.options, make_parser(command)
    known, unknown = parser.parse_known_args(_with_values(options, argv))
    if unknown:
        flag = unknown[0].partition("=")[0]
        near = get_close_matches(flag, parser._option_string_actions, 1, LIKE)
        hint = near[0] if near else f"{parser.prog} --help"
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}", hint=hint)
    parsed = vars(known)
    for option in options:
        if option.kind.collect is not None and option.name in parsed:
            parsed[option.name] = option.kind.collect(parsed[option.name])
    own = {option.name: option.default for option in options if option.commands}
    given = {name: parsed.pop(name, default) for name, default in own.items()}
    return Arguments(command, given, parsed)


def make_parser(command: Command) -> argparse.ArgumentParser:
    """Build the parser of a command; it raises UsageError instead of exiting."""
    parser = _Parser(
        prog="onnx-reap" if command.name == "run" else f"onnx-reap {command.name}",
        description=command.description,
        usage=command.usage,
        epilog=command.epilog,
        allow_abbrev=False,
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for option in command.options:
        _add(groups.get(option.group, parser), option)
    version = f"onnx-reap {__version__}"
    groups["output"].add_argument("--version", action="version", version=version)
    return parser


def _add(group: argparse._ActionsContainer, option: Option) -> None:
    """Add an option; one that the user leaves out is left out of the result, too."""
    text, kind = option.help.replace("%", "%%"), option.kind
    if option.positional:
        group.add_argument(option.name, type=kind.parse, metavar=option.metavar, help=text)
        return
    flags = [*filter(None, [option.short]), option.flag]
    kept: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    if kind is SWITCH:
        action = "store_false" if option.default else "store_true"
        group.add_argument(*flags, action=action, help=text, **kept)
        return
    if option.alone is not None:
        kept |= {"nargs": "?", "const": option.alone}
    group.add_argument(
        *flags,
        action="store" if kind.collect is None else "append",
        type=kind.parse,
        metavar=option.metavar or kind.metavar,
        required=option.required,
        help=text if option.required else f"{text} (default: {_default(option)})",
        **kept,
    )


def _default(option: Option) -> str:
    if option.shown is not None:
        return option.shown.replace("%", "%%")
    return "none" if option.default in (None, ()) else str(option.default)


def _with_values(options: Sequence[Option], argv: Sequence[str]) -> list[str]:
    """Give flags that stand alone their value, so that a file behind one is not taken for it."""
    alone = {option.flag: option for option in options if option.alone is not None}
    return [
        f"{arg}={alone[arg].alone}" if arg in alone and not alone[arg].kind.is_valid(after) else arg
        for arg, after in zip(argv, [*argv[1:], ""], strict=False)
    ]
