"""The report as tables for a terminal; plain text anywhere else."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_reap.errors import ReapError
from onnx_reap.graph.groups import FrozenChannels
from onnx_reap.prune.lossless.trim import Lossless
from onnx_reap.prune.refit.block_walk import BlockFit
from onnx_reap.prune.sparsity.records import DenseLayer, Tiling
from onnx_reap.report.records import Figures, Loss, Report

Reasoned = TypeVar("Reasoned", FrozenChannels, DenseLayer)

# A held-out error this many times the fitted one means that weights fit the samples, not the task.
WIDE_GAP = 2.0

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
    print_tables(tables, _remarks(report), console)


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


def print_tables(tables: Iterable[Table], remarks: Iterable[str], console: Console) -> None:
    """Print the tables that have rows, and remarks below."""
    for table in tables:
        if table.row_count:
            console.print(table)
    for remark in remarks:
        console.print(Text(remark))


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


def collapsed(names: Iterable[str]) -> str:
    """Name the first and count the rest."""
    first, *others = dict.fromkeys(names) or [""]
    return f"{first} and {len(others)} more" if others else first


def _remarks(report: Report) -> Iterator[str]:
    measured = report.held_out is not None or report.fitted is not None
    if measured:
        yield f"Calibration: {report.calibration}."
    yield (
        f"Latency: {report.provider} on this machine, median ± half the interquartile range; "
        "both models by turns."
    )
    if report.lossless is not None:
        yield _without_loss(report.lossless)
    if report.tiling is not None:
        yield from _of_zeros(report.tiling)
    if report.loss is not None:
        yield _bounded(report.loss)
    if measured:
        yield "Output error: squared error over the variance of the original output."
    if report.blocks:
        yield _together(report.blocks)
    gap = _gap(report)
    if gap >= WIDE_GAP:
        yield f"Held-out error is {gap:.1f} times the fitted one, a wide gap: bring more data."


def _together(blocks: Sequence[BlockFit]) -> str:
    better = [block for block in blocks if block.error_after < block.error_before]
    count = f"Refitted together: the layers of {len(better)} of {len(blocks)} blocks"
    if not better:
        return f"{count}; where they were refitted alone is as near as they get."
    before, after = (
        sum(getattr(block, f"error_{when}") for block in better) / len(better)
        for when in ("before", "after")
    )
    where = "on the validation split"
    return f"{count}; mean error behind these {before:.2g} -> {after:.2g} {where}."


def _without_loss(lossless: Lossless) -> str:
    gone = f"{lossless.dead:,} dead and {lossless.duplicate:,} duplicate channels"
    differ = f"on random samples outputs differ by {lossless.difference:.1g} of the largest."
    return f"Removed without loss: {gone}; {differ}"


def _of_zeros(tiling: Tiling) -> Iterator[str]:
    yield (
        f"Zeros: {tiling.pattern}, {tiling.zeros:.1%} of the weights of {len(tiling.layers)} "
        "layers; MACs and sizes count them as any others."
    )
    taken = f"the masks remove {tiling.score_lost:.1%} of the scores"
    if tiling.permuted:
        assert tiling.difference is not None
        yield (
            f"{tiling.permuted:,} channels changed places, which moved outputs by "
            f"{tiling.difference:.1g} of the largest: {taken} instead of "
            f"{tiling.score_lost_unpermuted:.1%}."
        )
    else:
        yield f"Channels are where they were: {taken}."


def _bounded(loss: Loss) -> str:
    sure = (
        ""
        if loss.low is None
        else f" (at most {loss.likely:.2%} with 75 % confidence, "
        f"{loss.low:.1%} to {_at_most(loss.high)} with 95 % confidence)"
    )
    where = f" on {loss.samples:,} held-out samples" if loss.samples else ""
    return f"Loss: {loss.value:.2%} {loss.kind}{where}{sure}; {loss.limit:.2%} was allowed."


def _at_most(share: float | None) -> str:
    """Write the upper end of an interval, which a few heavy samples may push anywhere."""
    return "more than 1,000 %" if share is None or share > 10 else f"{share:.1%}"


def _gap(report: Report) -> float:
    """Return the largest ratio of held-out to fitted error."""
    if report.held_out is None or report.fitted is None:
        return 0.0
    held_out, fitted = report.held_out.output_error, report.fitted.output_error
    return max((held_out[n] / fitted[n] for n in held_out if fitted.get(n)), default=0.0)
