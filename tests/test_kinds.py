"""The models of the table of coverage by kind are cut, or have a reason, as the table says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doc_tables import FAILED, REFUSED, read_rows, write_section
from kind_list import KINDS
from kinds import Row, example, measure, read_table

CASES = [(kind, opset) for kind in KINDS for opset in kind.opsets]
LISTED = read_table()


def test_the_table_tells_of_every_kind_once():
    keys = [(kind.name, kind.operators, str(opset)) for kind, opset in CASES]
    assert keys == list(LISTED)


@pytest.mark.parametrize(
    ("kind", "opset"), CASES, ids=[f"{kind.name}: {kind.operators}, {o}" for kind, o in CASES]
)
def test_a_row_of_the_table_is_up_to_date(kind, opset):
    row = measure(example(kind, opset), refit=False)
    assert not row.outcome.startswith((FAILED, REFUSED))
    assert float(row.macs_off or 0) > 0 or row.reasons
    listed = LISTED[kind.name, kind.operators, str(opset)]
    assert replace(row, refitted="", sliced="") == replace(listed, refitted="", sliced="")
    assert not listed.sliced or float(listed.refitted) < float(listed.sliced)


def test_a_section_is_written_without_touching_others(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n## First\n\nText.\n\n| a |\n|---|\n| 1 |\n\n## Second\n\nMore.\n")
    row = Row("k", "o", "17")
    titles = [f"t{k}" for k in range(9)]
    write_section(page, "Third", "Rows.", titles, [row])
    write_section(page, "Second", "Rows.", titles, [row, replace(row, opset="18")])
    text = page.read_text()
    assert text.startswith(
        "# Page\n\n## First\n\nText.\n\n| a |\n|---|\n| 1 |\n\n## Second\n\nRows."
    )
    assert len(read_rows(page, Row, titles, 3, heading="Second")) == 2
    assert read_rows(page, Row, titles, 3, heading="Third") == {("k", "o", "17"): row}
    assert read_rows(page, Row, titles, 3, heading="First") == {}
