"""The command `onnx-reap profile`: measure a model's layers, and save the table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from onnx_reap.cli.arguments import add_flag, add_usual, make_base, read_files, split_settings
from onnx_reap.cli.flags import FLAGS
from onnx_reap.options import PROFILED


def run_profile(argv: Sequence[str]) -> None:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str
        Arguments behind the command's name.

    Raises
    ------
    ReapError
        If the arguments can't be understood, or the model can't be measured; no file is written.
    """
    given, settings = split_settings(make_profile_parser().parse_args(argv))
    from onnx_reap.api import profile
    from onnx_reap.onnxio.files import check_outputs, write_atomically
    from onnx_reap.progress import for_terminal

    check_outputs({"--output": given["output"]}, read_files(given["model"], settings))
    table = profile(given["model"], progress=for_terminal(quiet=given["quiet"]), **settings)
    write_atomically(given["output"], table.to_json().encode())
    if not given["quiet"]:
        print(f"The model takes {table.whole_ms:.3g} ms on {table.provider}")
        print(f"Wrote {given['output']}")


def make_profile_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line; it raises UsageError instead of exiting."""
    parser = make_base(
        prog="onnx-reap profile",
        description="Measure how long a model's layers take at several widths in onnxruntime, on "
        "this machine. With the table, onnx-reap --target-latency --latency-table plans for this "
        "machine on any other.",
        usage="onnx-reap profile in.onnx -o latency.json [options]",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="in.onnx", help="model to measure; it is only read")
    add("-o", "--output", type=Path, metavar="FILE", required=True, help="where the table goes")
    for name in PROFILED:
        add_flag(parser, name, FLAGS[name])
    add_usual(parser, quiet="print nothing but errors")
    return parser
