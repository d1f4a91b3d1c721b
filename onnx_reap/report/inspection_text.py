"""An inspection as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from onnx_reap.report.inspection import Inspection, Sizes
from onnx_reap.report.remarks import collapsed
from onnx_reap.report.text import (
    frozen_nodes,
    new_table,
    percent,
    print_tables,
    quantity,
)

NOTHING = "0.0 %"


def print_inspection(seen: Inspection, console: Console) -> None:
    """Print all tables, and what can go at most below, where a terminal shows it."""
    macs, params = quantity(seen.total.macs), quantity(seen.total.params)
    remarks = (
        f"The model takes {macs} MACs a sample and has {params} parameters.",
        _conclusion(seen),
    )
    print_tables((_groups(seen), _ties(seen), _branches(seen), _frozen(seen)), remarks, console)


def _groups(seen: Inspection) -> Table:
    rows = [
        (
            group.name,
            str(group.width * group.unit),
            str(group.widths[0] * group.unit or "none"),
            *_shares(group.share, seen.total),
            _shares(group.saving, seen.total)[0],
        )
        for group in seen.groups
    ]
    columns = ("group", "channels", "at least", "MACs", "params", "can go")
    return new_table("Groups that can be pruned", columns, rows)


def _ties(seen: Inspection) -> Table:
    """Show the groups of several makers: what a residual stream or a gate ties together."""
    rows = [
        (group.name, *map(collapsed, (group.producers, group.tied_at, group.consumers)))
        for group in seen.groups
        if len(group.producers) > 1
    ]
    return new_table("Tied together", ("group", "made by", "tied at", "read by"), rows, left=4)


def _branches(seen: Inspection) -> Table:
    title = "Residual branches that can be removed entirely"
    rows = [
        (branch.group, collapsed(branch.joins), _shares(branch.saving, seen.total)[0])
        for branch in seen.branches
    ]
    return new_table(title, ("with group", "added at", "MACs"), rows, left=2)


def _frozen(seen: Inspection) -> Table:
    rows: list[Sequence[str]] = []
    for row in seen.frozen:
        nodes, reason, causes = frozen_nodes(row.reason, row.nodes)
        shares = _shares(row.share, seen.total)
        rows.append((reason, nodes, causes, f"{row.channels:,}", *shares))
    others = _shares(seen.others, seen.total)
    if set(others) != {NOTHING}:
        rows.append(("outside layers with constant weights", "", "", "", *others))
    columns = ("reason", "node", "cause", "channels", "MACs", "params")
    return new_table("Frozen", columns, rows, left=3)


def _conclusion(seen: Inspection) -> str:
    if seen.nothing is not None:
        return f"Nothing can go: {seen.nothing}"
    total, least = seen.total, seen.least
    macs, params = _shares(Sizes(total.macs - least.macs, total.params - least.params), total)
    return f"At most {macs} of the MACs and {params} of the parameters can go."


def _shares(part: Sizes, whole: Sizes) -> tuple[str, str]:
    return percent(part.macs / max(whole.macs, 1)), percent(part.params / max(whole.params, 1))
