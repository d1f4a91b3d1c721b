"""The command `onnx-reap sweep`: models for many targets, a table and a plot, in one folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_reap import parsing
from onnx_reap.cli.arguments import add_run, add_usual, make_base, read_files, split_settings
from onnx_reap.options import DEFAULT_TARGETS, SWEPT

if TYPE_CHECKING:
    from onnx_reap.onnxio.files import Content
    from onnx_reap.report.result import Point
    from onnx_reap.report.sweep import Row

TABLE, PLOT = "sweep.csv", "sweep.svg"


def run_sweep(argv: Sequence[str]) -> None:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str
        Arguments behind the command's name.

    Raises
    ------
    ReapError
        If the arguments can't be understood, or the request can't be honoured; no file is written.
    """
    given, settings = split_settings(make_sweep_parser().parse_args(argv))
    from onnx_reap.api import sweep
    from onnx_reap.onnxio.files import check_folder, write_folder
    from onnx_reap.onnxio.save import named_data
    from onnx_reap.progress import for_terminal
    from onnx_reap.report.plots import check_plotting
    from onnx_reap.report.sweep import print_sweep
    from onnx_reap.report.text import show

    targets, plans_only = given["targets"], given["plans_only"]
    inputs = read_files(given["model"], settings, data=given["data"])
    data = named_data(given["model"])
    files = [TABLE, PLOT]
    for target in dict.fromkeys(targets or DEFAULT_TARGETS):
        files += (names := _names(target, plans_only=plans_only))
        files += [f"{name}.data" for name in names if data and name.endswith(".onnx")]
    check_folder("--output", given["output"], files, inputs)
    check_plotting()
    progress = for_terminal(quiet=given["quiet"])
    points = sweep(given["model"], given["data"], targets=targets, progress=progress, **settings)
    contents, rows = _contents(points, plans_only=plans_only)
    write_folder(given["output"], contents)
    unseen = [] if PLOT in contents else [f"no {PLOT}: without data no quality was measured"]
    for note in [*_notes(points), *unseen]:
        print(f"warning: {note}", file=sys.stderr)
    if not given["quiet"]:
        written = [f"{len(contents)} files in {given['output']}"]
        show(lambda console: print_sweep(rows, points[0].report, console), written)


def make_sweep_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line; it raises UsageError instead of exiting."""
    parser = make_base(
        prog="onnx-reap sweep",
        description="Prune a model to several sizes, calibrating once, and write the models, their "
        f"plans, a table ({TABLE}) and a plot of quality against size ({PLOT}).",
        usage="onnx-reap sweep in.onnx -o sweep/ [--data PATH] [options]",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="in.onnx", help="trained model; it is only read")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        required=True,
        help="folder for all files; it is made if it is missing",
    )
    add(
        "--targets",
        type=parsing.fractions,
        metavar="X,X,X",
        help="multiply-accumulates that the models may have at most, as fractions of the original "
        f"such as 0.8,0.6 or 80%%,60%% (default: {','.join(map(str, DEFAULT_TARGETS))}, as far as "
        "these can be reached)",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="classes of the samples, .npy or .npz, to measure accuracy with (default: none)",
    )
    add("--plans-only", action="store_true", help="measure all models, but write plans only")
    add_usual(parser, quiet="print nothing but warnings and errors")
    add_run(parser, SWEPT)
    return parser


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
        accuracies = point.accuracy_before, point.accuracy_after
        rows.append(make_row(point.target, point.report, accuracies, names[0]))
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
