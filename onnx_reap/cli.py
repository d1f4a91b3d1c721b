"""The command `onnx-reap`.

A refusal is one line on stderr and an exit status; files appear only when everything is done.
Whatever is slow to import is imported once the arguments are understood.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_reap.arguments import Arguments, parse
from onnx_reap.errors import ReapError
from onnx_reap.profile_command import COMMAND, run_profile

if TYPE_CHECKING:
    import onnx

    from onnx_reap.pipeline import Result
    from onnx_reap.report.records import Report

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of nodes may be in any script
        sys.stdout.reconfigure(errors="replace")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == [COMMAND]:
            run_profile(given[1:])
        else:
            _run(parse(given))
    except ReapError as error:
        print(f"onnx-reap: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("onnx-reap: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(arguments: Arguments) -> None:
    from onnx_reap.files import check_outputs, write_all

    check_outputs(_outputs(arguments), _inputs(arguments))
    result = _compute(arguments)
    files = {arguments.output: _model_bytes(result.model)}  # first: no report without its model
    if arguments.plan is not None:
        files[arguments.plan] = result.plan.to_json().encode()
    if arguments.report is not None:
        files[arguments.report] = _report_bytes(result.report)
    write_all(files)
    for note in result.report.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not arguments.quiet:
        _show(result.report, files)


def _outputs(arguments: Arguments) -> dict[str, Path]:
    paths = {
        "the output model": arguments.output,
        "--plan": arguments.plan,
        "--report": arguments.report,
    }
    return {name: path for name, path in paths.items() if path is not None}


def _inputs(arguments: Arguments) -> dict[str, Path]:
    paths = {
        "the input model": arguments.model,
        "--data": arguments.data,
        "--from-plan": arguments.from_plan,
        "--latency-table": arguments.settings.get("latency_table"),
        "--layer-ratios": arguments.settings.get("layer_ratios"),
    }
    return {name: path for name, path in paths.items() if path is not None}


def _compute(arguments: Arguments) -> Result:
    from onnx_reap.pipeline import reap, replay
    from onnx_reap.progress import for_terminal

    progress = for_terminal(quiet=arguments.quiet)
    if arguments.from_plan is not None:
        plan = arguments.from_plan
        return replay(arguments.model, plan, progress=progress, **arguments.settings)
    return reap(arguments.model, arguments.data, progress=progress, **arguments.settings)


def _model_bytes(model: onnx.ModelProto) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        return model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ReapError(
            "the pruned model doesn't fit a file", got=str(error), expected="less than 2 GB"
        ) from error


def _report_bytes(report: Report) -> bytes:
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _show(report: Report, files: dict[Path, bytes]) -> None:
    from rich.console import Console

    from onnx_reap.report.text import print_report

    console = Console(markup=False, highlight=False, emoji=False)
    with suppress(BrokenPipeError, SystemExit):  # who reads has seen enough; the files are there
        print_report(report, console)
        for path in files:
            console.print(f"Wrote {path}", soft_wrap=True)
