"""The command `onnx-reap`.

A refusal is one line on stderr and an exit status; files appear only when everything is done.
Whatever is slow to import is imported once the arguments are understood.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_reap.cli.arguments import Arguments, parse, read_files
from onnx_reap.cli.inspect import run_inspect
from onnx_reap.cli.profile import run_profile
from onnx_reap.cli.sweep import run_sweep
from onnx_reap.errors import ReapError

if TYPE_CHECKING:
    from onnx_reap.report.result import Result

INTERRUPTED = 130
COMMANDS = {"inspect": run_inspect, "profile": run_profile, "sweep": run_sweep}
"""By the first argument; a model of such a name is given as `./profile`."""


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
        if given and given[0] in COMMANDS:
            COMMANDS[given[0]](given[1:])
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
    from onnx_reap.onnxio.files import check_outputs, write_all
    from onnx_reap.onnxio.save import data_path, named_data
    from onnx_reap.report.records import json_bytes
    from onnx_reap.report.text import print_report, show

    outputs = _outputs(arguments)
    inputs = read_files(
        arguments.model, arguments.settings, data=arguments.data, from_plan=arguments.from_plan
    )
    if named_data(arguments.model):
        outputs["the data of the output model"] = data_path(arguments.output)
    check_outputs(outputs, inputs)
    result = _compute(arguments)
    files = result.files(arguments.output)  # first: no report without its model
    if arguments.plan is not None:
        files[arguments.plan] = result.plan.to_json().encode()
    if arguments.report is not None:
        files[arguments.report] = json_bytes(result.report.to_dict())
    write_all(files)
    for note in result.report.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not arguments.quiet:
        show(lambda console: print_report(result.report, console), files)


def _outputs(arguments: Arguments) -> dict[str, Path]:
    paths = {
        "the output model": arguments.output,
        "--plan": arguments.plan,
        "--report": arguments.report,
    }
    return {name: path for name, path in paths.items() if path is not None}


def _compute(arguments: Arguments) -> Result:
    from onnx_reap.api import reap, replay
    from onnx_reap.progress import for_terminal

    progress = for_terminal(quiet=arguments.quiet)
    if arguments.from_plan is not None:
        plan = arguments.from_plan
        return replay(arguments.model, plan, progress=progress, **arguments.settings)
    return reap(arguments.model, arguments.data, progress=progress, **arguments.settings)
