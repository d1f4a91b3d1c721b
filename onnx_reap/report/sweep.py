"""The models of a sweep as rows: of a CSV file, and of a table for a terminal."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median

from rich.console import Console
from rich.table import Table

from onnx_reap.measure.quality import Quality
from onnx_reap.report.records import Report
from onnx_reap.report.result import Point
from onnx_reap.report.text import figure, new_table, percent, print_tables, quantity


@dataclass(frozen=True)
class Row:
    """One model; the fields are the columns of the CSV file, in their order."""

    # Fractions of the original's multiply-accumulates: allowed, and left
    target: float
    macs: int
    macs_ratio: float
    params: int
    bytes: int
    # Of the original and of the model, measured by turns
    latency_ms_before: float
    latency_ms_after: float
    held_out_samples: int | None
    # Squared output error over the variance of the original's output, the largest of all outputs,
    # on samples kept aside and on samples that weights were fitted to
    held_out_error: float | None
    top1_agreement: float | None  # On samples kept aside
    calibration_error: float | None
    # Of the original and of the model, on samples kept aside
    accuracy_before: float | None
    accuracy_after: float | None
    file: str  # The model's, or the plan's if only plans are written


def make_row(point: Point, file: str) -> Row:
    """Pick a row's figures out of a model's report."""
    report = point.report
    before, after, held_out = report.before, report.after, report.held_out
    return Row(
        point.target,
        after.macs,
        after.macs / max(before.macs, 1),
        after.params,
        after.bytes,
        before.latency_ms,
        after.latency_ms,
        held_out.samples if held_out else None,
        _error(held_out),
        held_out.top1_agreement if held_out else None,
        _error(report.fitted),
        point.accuracy_before,
        point.accuracy_after,
        file,
    )


def _error(quality: Quality | None) -> float | None:
    return max(quality.output_error.values(), default=None) if quality else None


def to_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV under a line of names; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    for row in rows:
        values = asdict(row).values()
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
    return text.getvalue()


def print_sweep(rows: Sequence[Row], original: Report, console: Console) -> None:
    """Print one line for every model, below one for the original of which any report tells."""
    remarks = [
        f"Latency: {original.provider} on this machine, median.",
        "Error: squared output error over the variance of the original output.",
    ]
    if samples := rows[0].held_out_samples:
        remarks.insert(0, f"Calibration: {original.calibration}; {samples:,} held out.")
    print_tables([_table(rows, original)], remarks, console)


def _table(rows: Sequence[Row], original: Report) -> Table:
    before, latency = original.before, median(row.latency_ms_before for row in rows)
    columns = {
        "target": ["original", *(f"{row.target:g}" for row in rows)],
        "MACs": [quantity(n) for n in (before.macs, *(row.macs for row in rows))],
        "params": [quantity(n) for n in (before.params, *(row.params for row in rows))],
        "size": [quantity(n, "B") for n in (before.bytes, *(row.bytes for row in rows))],
        "ms": [figure(ms, 3) for ms in (latency, *(row.latency_ms_after for row in rows))],
        "error": [figure(e, 3) for e in (None, *(row.held_out_error for row in rows))],
        "same top-1": [percent(p) for p in (None, *(row.top1_agreement for row in rows))],
        "accuracy": [
            percent(p) for p in (rows[0].accuracy_before, *(row.accuracy_after for row in rows))
        ],
    }
    known = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return new_table("Sweep", list(known), zip(*known.values(), strict=True))
