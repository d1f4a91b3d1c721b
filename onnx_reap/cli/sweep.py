"""The command `onnx-reap sweep`: models for many targets, a table and a plot, in one folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_reap.cli.arguments import Arguments, Command
from onnx_reap.cli.progress import for_terminal
from onnx_reap.options import DEFAULT_TARGETS, SweepKeywords

if TYPE_CHECKING:
    from onnx_reap.onnxio.files import Content
    from onnx_reap.report.result import Point
    from onnx_reap.report.sweep import Row

TABLE, PLOT = "sweep.csv", "sweep.svg"

SWEEP = Command(
    "sweep",
    SweepKeywords,
    description="Prune a model to several sizes, calibrating once, and write the models, their "
    f"plans, a table ({TABLE}) and a plot of quality against size ({PLOT}).",
    usage="onnx-reap sweep in.onnx -o sweep/ [--data PATH] [options]",
)


def run_sweep(arguments: Arguments) -> None:
    """Run the command; a ReapError leaves no file behind."""
    from onnx_reap.api import sweep
    from onnx_reap.onnxio.files import check_folder, write_folder
    from onnx_reap.report.plots import check_plotting
    from onnx_reap.report.sweep import print_sweep
    from onnx_reap.report.text import show

    targets, plans_only = arguments.targets, arguments.plans_only
    files = [TABLE, PLOT]
    for target in dict.fromkeys(targets or DEFAULT_TARGETS):
        files += (names := _names(target, plans_only=plans_only))
        if arguments.external_data:
            files += [f"{name}.data" for name in names if name.endswith(".onnx")]
    check_folder("--output", arguments.output, files, arguments.inputs())
    check_plotting()
    points = sweep(
        arguments.model,
        arguments.data,
        targets=targets,
        labels=arguments.labels,
        progress=for_terminal(quiet=arguments.quiet),
        **arguments.settings,
    )
    contents, rows = _contents(points, plans_only=plans_only)
    write_folder(arguments.output, contents)
    unseen = [] if PLOT in contents else [f"no {PLOT}: without data no quality was measured"]
    for note in [*_notes(points), *unseen]:
        print(f"warning: {note}", file=sys.stderr)
    if not arguments.quiet:
        written = [f"{len(contents)} files in {arguments.output}"]
        show(lambda console: print_sweep(rows, points[0].report, console), written)


def _names(target: float, *, plans_only: bool) -> list[str]:
    """Name the files of one target: two decimals, or as many as it takes."""
    text = f"{target:.2f}"
    stem = f"model_{text if float(text) == target else repr(target)}"
    plan = f"{stem}.plan.json"
    return [plan] if plans_only else [f"{stem}.onnx", plan]


def _contents(points: Sequence[Point], *, plans_only: bool) -> tuple[dict[str, Content], list[Row]]:
    """Return the files by name, and the rows of the table."""
    from onnx_reap.report.plots import draw
    from onnx_reap.report.sweep import make_row, to_csv

    files: dict[str, Content] = {}
    rows = []
    for point in points:
        names = _names(point.target, plans_only=plans_only)
        if not plans_only:
            made = point.files(Path(names[0]))
            files |= {path.name: data for path, data in made.items()}
        files[names[-1]] = point.plan.to_json().encode()
        rows.append(make_row(point, names[0]))
    files[TABLE] = to_csv(rows).encode()
    if (drawing := draw(rows)) is not None:
        files[PLOT] = drawing
    return files, rows


def _notes(points: Sequence[Point]) -> list[str]:
    """Return the warnings, each once; those that not all models share tell whose they are."""
    targets: dict[str, list[float]] = {}
    for point in points:
        for note in point.report.notes:
            targets.setdefault(note, []).append(point.target)
    return [
        note if len(of) == len(points) else f"target {', '.join(f'{t:g}' for t in of)}: {note}"
        for note, of in targets.items()
    ]
