"""The report as tables for a terminal; plain text anywhere else."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_reap.errors import ReapError
from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.prune.sparsity.records import DenseLayer, Tiling
from onnx_reap.report.records import Figures, Report
from onnx_reap.report.remarks import collapsed, remarks

Reasoned = TypeVar("Reasoned", FrozenChannels, DenseLayer)

# What interfaces demand needs no attention.
NORMAL_REASONS = ("graph output",)


def show(content: Callable[[Console], None], written: Iterable[object]) -> None:
    """Print to a terminal, and name what was written."""
    console, files = Console(markup=False, highlight=False, emoji=False), list(written)
    try:
        content(console)
        for each in files:
            console.print(f"Wrote {each}", soft_wrap=True)
    except (BrokenPipeError, SystemExit):
        return  # who reads has seen enough; the files are there
    except OSError as error:
        # Nothing more can be printed, nor what is left when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not files:
            raise ReapError("the tables can't be printed", got=str(error)) from error


def print_report(report: Report, console: Console) -> None:
    """Print all tables, the summary last, where a terminal shows it."""
    tables = (
        _groups(report),
        _factors(report),
        _frozen(report.frozen),
        _zeros(report.tiling),
        _quality(report),
        _summary(report),
    )
    print_tables(tables, remarks(report), console)


def quantity(value: float, unit: str = "") -> str:
    """Write a number with three significant digits and an SI prefix.

    Examples
    --------
    >>> quantity(41_200_000), quantity(999, "B"), quantity(1_500_000, "B")
    ('41.2 M', '999 B', '1.50 MB')
    """
    prefixes = ("", "k", "M", "G", "T", "P")
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if power == 0 else 2 - (abs(value) >= 9.995) - (abs(value) >= 99.95)
    return f"{value:.{digits}f} {prefixes[power]}{unit}".strip()


def new_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> Table:
    """Make a table; the first `left` columns hold text, the others numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        if index < left:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_tables(tables: Iterable[Table], sentences: Iterable[str], console: Console) -> None:
    """Print the tables that have rows, and sentences below."""
    for table in tables:
        if table.row_count:
            console.print(table)
    for sentence in sentences:
        console.print(Text(sentence))


def figure(value: float | None, digits: int = 2) -> str:
    """Write a number that may be unknown."""
    return "-" if value is None else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """Write a share that may be unknown."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _summary(report: Report) -> Table:
    before, after = report.before, report.after
    rows = []
    for label, field, unit in (
        ("MACs", "macs", ""),
        ("parameters", "params", ""),
        ("file size", "bytes", "B"),
    ):
        old, new = getattr(before, field), getattr(after, field)
        rows.append((label, quantity(old, unit), quantity(new, unit), _change(old, new)))
    change = _change(before.latency_ms, after.latency_ms)
    rows.append(("latency, ms", _latency(before), _latency(after), change))
    return new_table("Summary", ("", "before", "after", "change"), rows)


def _latency(figures: Figures) -> str:
    median = f"{figures.latency_ms:#.3g}".rstrip(".")
    if figures.latency_spread_ms is None:
        return f"{median} (one run)"
    half = f"{figures.latency_spread_ms / 2:#.2g}".rstrip(".")
    return f"{median} ± {half}"


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else "-"


def _quality(report: Report) -> Table:
    pairs = (("held out", report.held_out), ("fitted", report.fitted))
    known = {f"{label} ({q.samples:,})": q for label, q in pairs if q is not None}
    outputs = next(iter(known.values())).output_error if known else {}
    rows = []
    for name in outputs:
        label = "output error" if len(outputs) == 1 else f"output error, {name}"
        rows.append([label, *(figure(q.output_error[name]) for q in known.values())])
    if any(q.top1_agreement is not None for q in known.values()):
        rows.append(["top-1 agreement", *(percent(q.top1_agreement) for q in known.values())])
    return new_table("Against the original", ("", *known), rows)


def _groups(report: Report) -> Table:
    rows = [
        (group.name, str(group.before), str(group.after or "gone"), figure(group.error))
        for group in report.groups
    ]
    return new_table("Groups", ("group", "before", "after", "error"), rows)


def _factors(report: Report) -> Table:
    rows = [
        (each.node, each.scheme, str(each.rank), str(each.full), figure(each.error))
        for each in report.factors
    ]
    return new_table("Lower ranks", ("layer or group", "by", "rank", "of", "error"), rows, left=2)


def _frozen(frozen: Sequence[FrozenChannels]) -> Table:
    rows = [
        (*frozen_nodes(reason, found), f"{sum(each.channels for each in found):,}")
        for reason, found in by_reason(frozen).items()
    ]
    return new_table("Frozen", ("node", "reason", "cause", "channels"), rows, left=3)


def _zeros(tiling: Tiling | None) -> Table:
    layers, dense = (tiling.layers, tiling.dense) if tiling is not None else ((), ())
    rows = [
        (layer.node, percent(layer.zeros), figure(layer.error_before), figure(layer.error_after))
        for layer in layers
    ]
    for reason, found in by_reason(dense).items():
        nodes = collapsed(each.node for each in found)
        rows.append((f"{nodes} ({reason})", "dense", "", ""))
    return new_table("Zeros", ("layer", "zeros", "error", "repaired"), rows)


def by_reason(found: Iterable[Reasoned]) -> dict[str, list[Reasoned]]:
    """Collect nodes by the reason why they are left alone."""
    collected: dict[str, list[Reasoned]] = {}
    for each in found:
        collected.setdefault(each.reason, []).append(each)
    return collected


def frozen_nodes(reason: str, rows: Sequence[FrozenChannels]) -> tuple[str, str, str]:
    """Name the nodes of frozen channels, the reason and its causes."""
    nodes, causes = collapsed(row.node for row in rows), collapsed(row.cause for row in rows)
    return nodes, f"{reason} (normal)" if reason in NORMAL_REASONS else reason, causes
