"""The command without a name: prune one model, or replay a plan."""

import sys
from collections.abc import Sequence

from onnx_reap.cli.arguments import Arguments, Command, parse
from onnx_reap.cli.progress import for_terminal
from onnx_reap.errors import UsageError
from onnx_reap.options import OPTIONS, ReplayKeywords, RunKeywords

RUN = Command(
    "run",
    RunKeywords,
    description="Prune channels of a trained ONNX model and repair the weights that stay by "
    "least squares, without retraining.",
    usage="onnx-reap in.onnx out.onnx [--data PATH] [options]\n"
    "       onnx-reap inspect in.onnx [--data PATH] [--json FILE] [options]\n"
    "       onnx-reap profile in.onnx -o latency.json [options]\n"
    "       onnx-reap sweep in.onnx -o sweep/ [--data PATH] [options]",
    epilog="onnx-reap inspect in.onnx tells what could be pruned, and what could not and why; "
    "onnx-reap profile in.onnx -o latency.json measures a model's layers for "
    "--target-latency; onnx-reap sweep in.onnx -o sweep/ makes models for many targets at "
    "once; see --help of each. Exit status: 0 done, 1 refused, 2 usage, 3 target not reached "
    "or check failed, 130 interrupted.",
)


def run_reap(arguments: Arguments) -> None:
    """Run the command; a ReapError leaves no file behind."""
    from onnx_reap.api import reap, replay
    from onnx_reap.onnxio.files import check_outputs, write_all
    from onnx_reap.onnxio.save import data_path
    from onnx_reap.report.records import json_bytes
    from onnx_reap.report.text import print_report, show

    outputs = arguments.outputs()
    if arguments.external_data:
        outputs["the data of the output model"] = data_path(arguments.output)
    check_outputs(outputs, arguments.inputs())
    progress, plan = for_terminal(quiet=arguments.quiet), arguments.from_plan
    result = (
        reap(arguments.model, arguments.data, progress=progress, **arguments.settings)
        if plan is None
        else replay(arguments.model, plan, progress=progress, **arguments.settings)
    )
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


def parse_run(argv: Sequence[str]) -> Arguments:
    """Read the command line of a run.

    Raises
    ------
    UsageError
        If it can't be understood, or contradicts itself.
    """
    from onnx_reap.prune.contradictions import run_settings

    arguments = parse(RUN, argv)
    if arguments.from_plan is None:
        run_settings(arguments.settings, arguments.data)
        return arguments
    known = ReplayKeywords.__annotations__
    idle = [OPTIONS[name].flag for name in arguments.settings if name not in known]
    idle += ["--data"] if arguments.data is not None else []
    if idle:
        raise UsageError(f"--from-plan replays a cut as it was; it can't go with {', '.join(idle)}")
    return arguments
