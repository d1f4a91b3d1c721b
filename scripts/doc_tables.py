"""Tables of outcomes on pages of documentation: a row per model, which the next run reads again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

from onnx_reap.graph.groups import FrozenChannels

REASONS, LONGEST = 3, 70  # reasons a row; characters of each
REFUSED, FAILED = "refused: ", "FAILURE: "  # how outcomes begin that are none
COVERAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
SECTION = re.compile("^(?=## )", re.MULTILINE)

# A dataclass of texts, the first of which is the model's name.
RowT = TypeVar("RowT")


def read_rows(
    path: Path, kind: type[RowT], titles: Sequence[str], keys: int = 1, heading: str = ""
) -> dict[Any, RowT]:
    """Read the rows of a table that was written before; none if there is no such page.

    Parameters
    ----------
    keys : int
        First cells that name a row: by the first itself, or by a tuple of so many.
    heading : str
        Of the section that holds the table; above the first one by default.
    """
    rows: dict[Any, RowT] = {}
    for line in _sections(path).get(heading, "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(titles) and line.startswith("| ") and cells[0] != titles[0]:
            rows[cells[0] if keys == 1 else tuple(cells[:keys])] = kind(*cells)
    return rows


def write_page(path: Path, text: str, titles: Sequence[str], rows: Iterable[Any]) -> None:
    """Write a page: a text, and a table below it."""
    path.write_text(_with_table(text, titles, rows) + "\n")


def write_section(
    path: Path, heading: str, text: str, titles: Sequence[str], rows: Iterable[Any]
) -> None:
    """Write one section of a page, a text and a table below it; the rest of the page stays."""
    section = _with_table(f"## {heading}\n\n{text}", titles, rows)
    sections = _sections(path) | {heading: section}
    path.write_text("\n\n".join(filter(None, sections.values())) + "\n")


def _sections(path: Path) -> dict[str, str]:
    """Return the sections of a page by heading, in order; what is above them by an empty one."""
    top, *parts = SECTION.split(path.read_text() if path.exists() else "")
    return {"": top.rstrip()} | {part.partition("\n")[0][3:]: part.rstrip() for part in parts}


def _with_table(text: str, titles: Sequence[str], rows: Iterable[Any]) -> str:
    lines = [f"| {' | '.join(titles)} |", f"|{'|'.join('---' for _ in titles)}|"]
    lines += [f"| {' | '.join(astuple(row))} |" for row in rows]
    return "\n".join([text.rstrip(), "", *lines])


def most_frequent_reasons(frozen: Iterable[FrozenChannels]) -> str:
    """Name the reasons that hold most channels; that outputs stay goes without saying."""
    counts: Counter[str] = Counter()
    for entry in frozen:
        counts[one_line(entry.reason, LONGEST)] += entry.channels
    del counts["graph output"]
    return "; ".join(f"{text} ({count})" for text, count in counts.most_common(REASONS))


def one_line(text: str, longest: int | None = None) -> str:
    """Make a text fit a cell."""
    text = " ".join(text.split()).replace("|", "/")
    return text if longest is None or len(text) <= longest else text[: longest - 3].rstrip() + "..."
