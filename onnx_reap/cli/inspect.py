"""The command `onnx-reap inspect`: what could be pruned of a model, what could not, and why."""

from onnx_reap.cli.arguments import Arguments, Command
from onnx_reap.options import InspectKeywords

INSPECT = Command(
    "inspect",
    InspectKeywords,
    description="Tell which channels of a model could be pruned and how far, which could not "
    "and why, and what share of the model each makes up. It takes seconds and no data, but for "
    "the sizes of inputs that the model leaves open; it writes nothing but the JSON file that it "
    "is asked for.",
    usage="onnx-reap inspect in.onnx [--data PATH] [--json FILE] [options]",
)


def run_inspect(arguments: Arguments) -> None:
    """Run the command; a ReapError leaves no file behind."""
    from onnx_reap.api import inspect
    from onnx_reap.onnxio.files import check_outputs, write_all
    from onnx_reap.report.inspection_text import print_inspection
    from onnx_reap.report.records import json_bytes
    from onnx_reap.report.text import show

    outputs = arguments.outputs()
    check_outputs(outputs, arguments.inputs())
    seen = inspect(arguments.model, arguments.data, **arguments.settings)
    write_all(dict.fromkeys(outputs.values(), json_bytes(seen.to_dict())))
    if not arguments.quiet:
        show(lambda console: print_inspection(seen, console), outputs.values())
