"""The command `onnx-reap inspect`: what could be pruned of a model, what could not, and why."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from onnx_reap.cli.arguments import add_flag, add_usual, make_base, read_files, split_settings
from onnx_reap.cli.flags import FLAGS
from onnx_reap.options import INSPECTED


def run_inspect(argv: Sequence[str]) -> None:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str
        Arguments behind the command's name.

    Raises
    ------
    ReapError
        If the arguments can't be understood, or the model can't be run; no file is written.
    """
    given, settings = split_settings(make_inspect_parser().parse_args(argv))
    from onnx_reap.api import inspect
    from onnx_reap.onnxio.files import check_outputs, write_all
    from onnx_reap.report.inspection_text import print_inspection
    from onnx_reap.report.records import json_bytes
    from onnx_reap.report.text import show

    outputs = {} if given["json"] is None else {"--json": given["json"]}
    check_outputs(outputs, read_files(given["model"], settings))
    seen = inspect(given["model"], **settings)
    content = json_bytes(seen.to_dict())
    write_all(dict.fromkeys(outputs.values(), content))
    if not given["quiet"]:
        show(lambda console: print_inspection(seen, console), outputs.values())


def make_inspect_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line; it raises UsageError instead of exiting."""
    parser = make_base(
        prog="onnx-reap inspect",
        description="Tell which channels of a model could be pruned and how far, which could not "
        "and why, and what share of the model each makes up. It takes seconds and no data, and "
        "writes nothing but the JSON file that it is asked for.",
        usage="onnx-reap inspect in.onnx [--json FILE] [options]",
    )
    parser.add_argument(
        "model", type=Path, metavar="in.onnx", help="model to look at; it is only read"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all that is found (default: none)"
    )
    for name in INSPECTED:
        add_flag(parser, name, FLAGS[name])
    add_usual(parser, quiet="print nothing but errors")
    return parser
