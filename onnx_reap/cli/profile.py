"""The command `onnx-reap profile`: measure a model's layers, and save the table."""

from onnx_reap.cli.arguments import Arguments, Command
from onnx_reap.cli.progress import for_terminal
from onnx_reap.options import ProfileKeywords

PROFILE = Command(
    "profile",
    ProfileKeywords,
    description="Measure how long a model's layers take at several widths in onnxruntime, on "
    "this machine. With the table, onnx-reap --target-latency --latency-table plans for this "
    "machine on any other.",
    usage="onnx-reap profile in.onnx -o latency.json [options]",
)


def run_profile(arguments: Arguments) -> None:
    """Run the command; a ReapError leaves no file behind."""
    from onnx_reap.api import profile
    from onnx_reap.onnxio.files import check_outputs, write_all

    check_outputs(arguments.outputs(), arguments.inputs())
    progress = for_terminal(quiet=arguments.quiet)
    table = profile(arguments.model, progress=progress, **arguments.settings)
    write_all({arguments.output: table.to_json().encode()})
    if not arguments.quiet:
        print(f"The model takes {table.whole_ms:.3g} ms on {table.provider}")
        print(f"Wrote {arguments.output}")
