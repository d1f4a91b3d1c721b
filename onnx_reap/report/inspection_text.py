"""An inspection as tables for a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnx_reap.report.inspection import Inspection, Sizes
from onnx_reap.report.text import collapsed, new_table, normal_or_not, quantity

NOTHING = "0.0 %"


def print_inspection(seen: Inspection, console: Console) -> None:
    """Print all tables, and what can go at most below, where a terminal shows it."""
    for table in (_groups(seen), _ties(seen), _branches(seen), _frozen(seen)):
        if table.row_count:
            console.print(table)
    macs, params = quantity(seen.total.macs), quantity(seen.total.params)
    console.print(Text(f"The model takes {macs} MACs a sample and has {params} parameters."))
    console.print(Text(_conclusion(seen)))


def _groups(seen: Inspection) -> Table:
    columns = ("channels", "at least", "MACs", "params", "can go")
    table = new_table("Groups that can be pruned", "group", *columns)
    for group in seen.groups:
        narrowest = group.widths[0] or "none"
        share = _shares(group.share, seen.total)
        saving = _percent(group.saving.macs, seen.total.macs)
        table.add_row(Text(group.name), str(group.width), str(narrowest), *share, saving)
    return table


def _ties(seen: Inspection) -> Table:
    """Show the groups of several makers: what a residual stream or a gate ties together."""
    table = new_table("Tied together", "group", "made by", "tied at", "read by", left=4)
    for group in (group for group in seen.groups if len(group.producers) > 1):
        nodes = (group.producers, group.tied_at, group.consumers)
        table.add_row(Text(group.name), *(Text(collapsed(names)) for names in nodes))
    return table


def _branches(seen: Inspection) -> Table:
    title = "Residual branches that can be removed entirely"
    table = new_table(title, "with group", "added at", "MACs", left=2)
    for branch in seen.branches:
        saving = _percent(branch.saving.macs, seen.total.macs)
        table.add_row(Text(branch.group), Text(collapsed(branch.joins)), saving)
    return table


def _frozen(seen: Inspection) -> Table:
    columns = ("reason", "node", "cause", "channels", "MACs", "params")
    table = new_table("Frozen", *columns, left=3)
    for row in seen.frozen:
        nodes = collapsed(each.node for each in row.nodes)
        causes = collapsed(each.cause for each in row.nodes)
        texts = (Text(text) for text in (normal_or_not(row.reason), nodes, causes))
        table.add_row(*texts, f"{row.channels:,}", *_shares(row.share, seen.total))
    others = _shares(seen.others, seen.total)
    if set(others) != {NOTHING}:
        table.add_row("outside layers with constant weights", "", "", "", *others)
    return table


def _conclusion(seen: Inspection) -> str:
    macs, params = (
        _percent(whole - least, whole)
        for whole, least in (
            (seen.total.macs, seen.least.macs),
            (seen.total.params, seen.least.params),
        )
    )
    if seen.nothing is not None:
        return f"Nothing can go: {seen.nothing}"
    return f"At most {macs} of the MACs and {params} of the parameters can go."


def _shares(part: Sizes, whole: Sizes) -> tuple[str, str]:
    return _percent(part.macs, whole.macs), _percent(part.params, whole.params)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
