"""Prune every model of a folder at half its channels, and tell what could be cut and what not.

    python scripts/coverage.py FOLDER                        # all, cheap ones first
    python scripts/coverage.py FOLDER --only 'resnet18*'     # some; other rows of the table stay

The folder holds structure-only exports `NAME.onnx.xz`, an `index.json` that lists them, and a
`materialize.py` that fills in weights. Savings depend on the structure alone, so random weights
are fair. Every cut model is compared with the masked original at batches of 1, 2 and 3.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from doc_tables import (
    COVERAGE,
    FAILED,
    LONGEST,
    REFUSED,
    most_frequent_reasons,
    one_line,
    read_rows,
    write_section,
)  # fmt: skip
from rich.console import Console

import onnx_reap
from onnx_reap.errors import CheckError
from onnx_reap.onnxio.session import run, session
from onnx_reap.report.records import Report

TABLE, HEADING = COVERAGE, "Exports"
RATIO, GOAL = 0.5, 45.0  # fraction of the channels to remove; MACs that should go, in percent
TOLERANCE, HALF_TOLERANCE = 2e-3, 5e-2  # relative to an output's largest entry
CONSOLE = Console(width=200)


@dataclass(frozen=True)
class Row:
    """What became of one model, as text."""

    model: str
    convs: str  # Convolutions in the file
    macs_off: str  # Percent of the multiply-accumulates that went
    cut: str  # Groups that lost channels, of all groups
    frozen: str  # Layers some of whose channels must stay
    outcome: str  # Batches at which the cut model is the masked one, or why there is none
    reasons: str  # Most frequent reasons for channels that must stay, with the number of channels
    seconds: str


TITLES = ("model", "convs", "MACs off %", "groups cut", "layers frozen", "outcome", "reasons", "s")
TEXT = """\
What `onnx-reap --ratio 0.5 --criterion l1 --no-refit` does to exports of many
architectures, made by `scripts/coverage.py`. *Same at 1, 2, 3*: at these batch sizes the
cut model gives what the original gives with the removed channels zeroed in the layers
that read them; *outputs behind choices*: where sorting or thresholds turn differences of
rounding into others, what goes into them agrees. *Layers frozen*: layers some of whose
output channels must stay, as those of the model's outputs must. *Reasons*: why, with the
number of channels.

{summary}
"""


def measure(path: Path) -> Row:
    """Prune one model and compare it with its mask."""
    start = time.perf_counter()
    name = path.name.removesuffix(".onnx.xz")
    model = materialized(path)
    convs = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    figures, reasons = ("", "", ""), ""
    try:
        result = onnx_reap.reap(model, ratio=RATIO, criterion="l1", refit=False)
        figures, reasons = _figures(result.report), most_frequent_reasons(result.report.frozen)
        outcome = _compared(onnx_reap.mask(model, result.plan), result)
    except CheckError as error:  # the tool itself finds that its cut is wrong
        outcome = FAILED + one_line(str(error), LONGEST)
    except onnx_reap.ReapError as error:
        outcome = REFUSED + one_line(str(error), LONGEST)
    except Exception as error:  # the table shall tell of all models
        outcome = f"{FAILED}{type(error).__name__} {one_line(str(error), LONGEST)}"
    seconds = time.perf_counter() - start
    return Row(name, str(convs), *figures, outcome, reasons, f"{seconds:.0f}")


def materialized(path: Path) -> onnx.ModelProto:
    """Fill the weights of a structure-only export in."""
    spec = importlib.util.spec_from_file_location("materialize", path.parent / "materialize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result: onnx.ModelProto = module.materialize(str(path))
    return result


def _figures(report: Report) -> tuple[str, str, str]:
    off = 100 * (1 - report.after.macs / max(report.before.macs, 1))
    cut = sum(group.after < group.before for group in report.groups)
    frozen = len({entry.node for entry in report.frozen})
    return f"{off:.1f}", f"{cut} of {len(report.groups)}", str(frozen)


def _compared(masked: onnx.ModelProto, result: onnx_reap.Result) -> str:
    """Run a cut model beside the masked one; return at which batches they are the same."""
    expected, got = (session(m, ["CPUExecutionProvider"]) for m in (masked, result.model))
    unsure = [note for note in result.report.notes if "could not be verified" in note]
    open_ = isinstance(expected.get_inputs()[0].shape[0], str)
    same = [n for n in ((1, 2, 3) if open_ else (None,)) if _same(expected, got, n, unsure)]
    if not same:
        raise AssertionError("the masked model does not run at all")
    told = f"same at {', '.join(map(str, same))}" if open_ else "same at its one size"
    return told + (f"; {len(unsure)} outputs behind choices" if unsure else "")


def _same(expected: Any, got: Any, batch: int | None, unsure: Iterable[str]) -> bool:
    """Compare two sessions on random inputs; return whether the first one runs at that batch.

    Raises
    ------
    AssertionError
        If the second one gives anything else.
    """
    rng = np.random.default_rng(0)
    shapes = {v.name: [batch or v.shape[0], *v.shape[1:]] for v in expected.get_inputs()}
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    types = {v.name: kinds[v.type] for v in expected.get_inputs()}
    feed = {name: rng.standard_normal(shape).astype(types[name]) for name, shape in shapes.items()}
    try:
        want = run(expected, None, feed)
    except onnx_reap.ReapError:  # another batch is baked in
        return False
    try:
        have = run(got, None, feed)
    except onnx_reap.ReapError as error:
        raise AssertionError(f"only the masked model runs at {shapes}") from error
    for output, values in want.items():
        if not any(f"output {output} " in note for note in unsure):
            _assert_same(output, values, have[output])
    return True


def _assert_same(name: str, want: np.ndarray, have: np.ndarray) -> None:
    if want.shape != have.shape or want.dtype != have.dtype:
        raise AssertionError(f"output {name}: {have.dtype} {have.shape}, not {want.shape}")
    tolerance = HALF_TOLERANCE if want.dtype == np.float16 else TOLERANCE
    a, b = want.astype(np.float64), have.astype(np.float64)
    scale, error = np.abs(a).max(initial=0), np.abs(a - b).max(initial=0)
    if not error <= tolerance * scale:
        raise AssertionError(f"output {name}: off by {error:.2e} of {scale:.2e}")


def read_table(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows of a table that was written before, by model."""
    return read_rows(path, Row, TITLES, heading=HEADING)


def summary(rows: Iterable[Row]) -> str:
    """Count the outcomes; a model with two convolutions or more is convolutional."""
    rows = list(rows)
    refused = sum(row.outcome.startswith(REFUSED) for row in rows)
    failed = sum(row.outcome.startswith(FAILED) for row in rows)
    convolutional = [row for row in rows if int(row.convs) > 1]
    light = sum(float(row.macs_off or 0) >= GOAL for row in convolutional)
    share = 100 * light / max(len(convolutional), 1)
    return (
        f"{len(rows)} models: {len(rows) - refused - failed} cut and verified, {refused} refused, "
        f"{failed} failed. Of {len(convolutional)} convolutional ones (two convolutions or more) "
        f"{light} ({share:.0f} %) lose {GOAL:.0f} % of their multiply-accumulates or more."
    )


def write_table(rows: Mapping[str, Row], path: Path) -> None:
    """Write the section, models in alphabetical order."""
    text = TEXT.format(summary=summary(rows.values()))
    write_section(path, HEADING, text, TITLES, [rows[name] for name in sorted(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="structure-only exports")
    parser.add_argument("--only", metavar="GLOB", default="*", help="models of such names alone")
    parser.add_argument("-o", "--output", type=Path, default=TABLE, help="the table's file")
    arguments = parser.parse_args()
    listed = json.loads((arguments.folder / "index.json").read_text())["files"]
    rows = read_table(arguments.output)
    for entry in sorted(listed, key=lambda entry: entry["macs"]):
        if not fnmatch.fnmatch(entry["name"], arguments.only):
            continue
        row = measure(arguments.folder / entry["file"])
        rows[row.model] = row
        write_table(rows, arguments.output)
        CONSOLE.print(*astuple(row), sep="  ", markup=False, highlight=False, soft_wrap=True)
    CONSOLE.print(summary(rows.values()))


if __name__ == "__main__":
    main()
