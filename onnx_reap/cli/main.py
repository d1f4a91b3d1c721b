"""The command `onnx-reap`.

A refusal is one line on stderr and an exit status; files appear only when everything is done.
Whatever is slow to import is imported once the arguments are understood.
"""

import io
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from onnx_reap.cli.arguments import parse
from onnx_reap.cli.inspect import INSPECT, run_inspect
from onnx_reap.cli.profile import PROFILE, run_profile
from onnx_reap.cli.run import RUN, parse_run, run_reap
from onnx_reap.cli.sweep import SWEEP, run_sweep
from onnx_reap.errors import ReapError

INTERRUPTED = 130
LIKE = 0.8  # of a command's name is in what was typed
COMMANDS = {
    "inspect": (INSPECT, run_inspect),
    "profile": (PROFILE, run_profile),
    "sweep": (SWEEP, run_sweep),
}
"""By the first argument; a model of such a name is given as `./profile`."""

ALL = (RUN, *(command for command, _ in COMMANDS.values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of nodes may be in any script
        sys.stdout.reconfigure(errors="replace")
    given = list(sys.argv[1:] if argv is None else argv)
    command = RUN
    try:
        if given and given[0] in COMMANDS:
            command, run = COMMANDS[given[0]]
            run(parse(command, given[1:]))
        else:
            _check_command(given)
            run_reap(parse_run(given))
    except ReapError as error:
        told = error.told_to(command.flags, {f for each in ALL for f in each.flags})
        print(f"onnx-reap: error: {told}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("onnx-reap: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _check_command(given: Sequence[str]) -> None:
    """Refuse a first argument that is no model, and nearly the name of a command."""
    near = get_close_matches(given[0], COMMANDS, 1, LIKE) if given else []
    if near and given[0].isalpha() and not Path(given[0]).exists():
        raise ReapError(f"model file {given[0]}: not found", hint=f"onnx-reap {near[0]}")
