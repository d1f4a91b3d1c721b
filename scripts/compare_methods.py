"""Compare the criteria, with and without the refit, at several budgets; write docs/methods.md.

    python scripts/compare_methods.py --only reap l1    # some, on the shipped model
    python scripts/compare_methods.py --bench FOLDER    # all, on the models of benchmark.py too

Every run adds a row to a file of results; what is in there already is not run again, so that a
comparison may be made in pieces. Remove the file to start anew.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path

from benchmark import CONSOLE, Task, all_tasks

import onnx_reap
from onnx_reap.criteria.table import CRITERIA

DOCS = Path(__file__).resolve().parent.parent / "docs"
REMOVED = (20, 40, 60)  # % of the multiply-accumulates


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes
    ----------
    removed : int
        Multiply-accumulates to remove, in percent.
    """

    model: str
    criterion: str
    refit: bool
    allocation: str
    removed: int


@dataclass(frozen=True)
class Outcome:
    """What came out: top-1 accuracy on labelled images, in percent, and seconds of the whole run.

    Both are None where so much can't be removed.
    """

    accuracy: float | None
    seconds: float | None


def cases(model: str, criteria: Sequence[str]) -> Iterator[Case]:
    """Yield what is compared; where nothing is run, nothing but equal ratios can be had."""
    for name, refit in product(criteria, (True, False)):
        blind = not (refit or CRITERIA[name].runs)
        for allocation, removed in product(("uniform",) if blind else ("uniform", "pro"), REMOVED):
            yield Case(model, name, refit, allocation, removed)


def measured(task: Task, case: Case) -> Outcome:
    start = time.perf_counter()
    try:
        result = onnx_reap.reap(
            task.model,
            task.calibration,
            criterion=case.criterion,
            refit=case.refit,
            joint_refit=0,
            allocation=case.allocation,
            target_macs=1 - case.removed / 100,
            **task.preprocess,
        )
    except onnx_reap.TargetError:
        return Outcome(None, None)
    seconds = time.perf_counter() - start
    return Outcome(task.accuracy(result.model), seconds)


def untouched(task: Task) -> Outcome:
    return Outcome(task.accuracy(task.model), 0.0)


def read(path: Path) -> dict[Case, Outcome]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            Case(
                row["model"],
                row["criterion"],
                row["refit"] == "True",
                row["allocation"],
                int(row["removed"]),
            ): Outcome(*(float(row[k]) if row[k] else None for k in ("accuracy", "seconds")))
            for row in csv.DictReader(file)
        }


def add(path: Path, case: Case, outcome: Outcome) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in (*fields(Case), *fields(Outcome))])
        if new:
            writer.writeheader()
        writer.writerow(asdict(case) | asdict(outcome))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def methods() -> str:
    """Return the table of criteria."""
    rows = [
        [
            f"`{name}`",
            each.goes_by,
            ", ".join(["samples"] * each.runs + ["`methods`"] * (each.package is not None)),
            each.paper,
        ]
        for name, each in CRITERIA.items()
    ]
    return table(["criterion", "goes by", "needs", "paper"], rows)


def original(model: str) -> Case:
    """Return the model as it is, as a row of the results."""
    return Case(model, "none", False, "none", 0)


def comparison(model: str, known: dict[Case, Outcome]) -> str:
    """Return what is known of one model."""
    rows = []
    for name, refit, allocation in product(CRITERIA, (True, False), ("uniform", "pro")):
        found = [known.get(Case(model, name, refit, allocation, off)) for off in REMOVED]
        if any(found):
            rows.append([f"`{name}`", "yes" if refit else "no", allocation, *map(written, found)])
    head = ["criterion", "refit", "allocation", *(f"{off} % off" for off in REMOVED)]
    return f"\n## {model} ({known[original(model)].accuracy:.1f} %)\n\n{table(head, rows)}"


def written(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.accuracy is None:
        return "out of reach"
    return f"{outcome.accuracy:.1f} ({outcome.seconds:.0f} s)"


INTRODUCTION = """# Criteria compared

What decides which channels of a group go first is `--criterion`. All else is the same for all of
them: the errors along the order, how a budget is spread over groups, the cut, and the refit. Each
is a module in `onnx_reap/criteria/` that cites its paper. The extra `methods` brings scikit-learn:
`pip install "onnx-reap[methods]"`. This page is written by `scripts/compare_methods.py`.

"""

FIGURES = """
Figures are top-1 accuracies on labelled images that were not used for pruning, in percent, with the
seconds of the whole run; in the titles those of the original. Seed 0, no labels used, no joint
refit. Without a refit channels are sliced off and nothing else is changed; methods that merge
channels (`fold`, `nu`, `similarity`) are orders of removal here, so what reads a channel that goes
is not added to what reads another. Where nothing is run, only equal ratios can be had.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder of further models and images")
    parser.add_argument("--only", nargs="+", choices=tuple(CRITERIA), help="these criteria alone")
    parser.add_argument("--results", type=Path, default=DOCS / "methods.csv", help="a CSV file")
    parser.add_argument("--page", type=Path, default=DOCS / "methods.md", help="what is written")
    arguments = parser.parse_args()
    known = read(arguments.results)

    def run(case: Case, measure: Callable[[], Outcome]) -> None:
        if case not in known:
            known[case] = measure()
            add(arguments.results, case, known[case])
            CONSOLE.print(*asdict(case).values(), written(known[case]))

    for task in all_tasks(arguments.bench):
        run(original(task.name), partial(untouched, task))
        for case in cases(task.name, arguments.only or tuple(CRITERIA)):
            run(case, partial(measured, task, case))
    models = dict.fromkeys(case.model for case in known)
    page = (
        INTRODUCTION + methods() + FIGURES + "".join(comparison(model, known) for model in models)
    )
    arguments.page.write_text(page, encoding="utf-8")
    CONSOLE.print(page, markup=False, highlight=False)


if __name__ == "__main__":
    main()
