"""Compare the criteria, with and without the refit, at several budgets; write docs/methods.md.

    python scripts/compare_methods.py --only reap l1    # some, on the shipped model
    python scripts/compare_methods.py --bench FOLDER    # all, on the models of benchmark.py too

Of a model and a criterion everything is observed once; all cuts follow from that. What is made adds
a row to a file of results; what is in there already is not made again, so that a comparison may be
made in pieces. Remove the file to start anew.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import CONSOLE, Task, all_tasks

from onnx_reap.errors import TargetError
from onnx_reap.fields import CRITERIA
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.apply import apply_choice
from onnx_reap.prune.context import Run, open_run
from onnx_reap.prune.decide import decide, estimate, narrowed
from onnx_reap.prune.goal import Goal, read_goal

DOCS = Path(__file__).resolve().parent.parent / "docs"
REMOVED = (20, 40, 60)  # % of the multiply-accumulates
THINNED = "pro, no branch goes"
ALLOCATIONS: dict[str, dict[str, Any]] = {
    "uniform": {"allocation": "uniform"},
    "pro": {},
    THINNED: {"vanish": False},
}


@dataclass(frozen=True)
class Case:
    """What is made."""

    model: str
    criterion: str
    refit: bool
    allocation: str  # A name in ALLOCATIONS
    removed: int  # Multiply-accumulates to remove, in percent


@dataclass(frozen=True)
class Outcome:
    """What came out."""

    # Top-1 on labelled images, in percent; None where so much can't be removed
    accuracy: float | None
    branches: int = 0  # Groups that went wholly
    # Seconds of processor time, over all cores: for the criterion's observations at all budgets,
    # and for the choice of widths, cut and refit of this model
    choosing: float = 0.0
    making: float = 0.0


def cases(model: str, criterion: str) -> Iterator[Case]:
    """Yield what is made of a model: what happens without whole branches is shown for one."""
    for name, refit, removed in product(ALLOCATIONS, (True, False), REMOVED):
        if name != THINNED or criterion == "reap":
            yield Case(model, criterion, refit, name, removed)


def outcomes(task: Task, criterion: str, wanted: Sequence[Case]) -> Iterator[tuple[Case, Outcome]]:
    """Make models, all from the same observations."""
    settings = Settings.make(
        {"criterion": criterion, "joint_refit": 0, "tune": 0, **task.preprocess}
    )
    work = open_run(task.model, task.calibration, settings, NoProgress())
    ways = {
        case: replace(
            settings,
            refit=case.refit,
            target_macs=1 - case.removed / 100,
            **ALLOCATIONS[case.allocation],
        )
        for case in wanted
    }
    # By the settings with a refit: without one, some criteria would run nothing.
    found = {case: _goal(work, replace(way, refit=True)) for case, way in ways.items()}
    goals = {case: goal for case, goal in found.items() if goal is not None}
    yield from ((case, Outcome(None)) for case in found if case not in goals)
    if not goals:
        return
    start = time.process_time()
    evidence = estimate(work, list(goals.values()))
    choosing = time.process_time() - start
    for case, goal in goals.items():
        start = time.process_time()
        own = replace(work, settings=ways[case])
        known = evidence if case.allocation == "uniform" else narrowed(evidence, goal)
        made = apply_choice(own, decide(own, goal, known))
        making = time.process_time() - start
        gone = int(np.sum(made.choice.widths == 0))
        yield case, Outcome(task.accuracy(made.model.whole()), gone, choosing, making)


def _goal(work: Run, settings: Settings) -> Goal | None:
    try:
        return read_goal(replace(work, settings=settings))
    except TargetError:
        return None


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
            ): Outcome(
                float(row["accuracy"]) if row["accuracy"] else None,
                int(row["branches"]),
                float(row["choosing"]),
                float(row["making"]),
            )
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


def comparison(model: str, known: Mapping[Case, Outcome]) -> str:
    """Return what is known of one model."""
    rows = []
    for name, allocation in product(CRITERIA, ALLOCATIONS):
        found = [
            [known.get(Case(model, name, refit, allocation, off)) for refit in (True, False)]
            for off in REMOVED
        ]
        if any(map(any, found)):
            spent = [outcome for pair in found for outcome in pair if outcome is not None]
            rows.append([f"`{name}`", allocation, *map(written, found), seconds(spent)])
    head = ["criterion", "allocation", *(f"{off} % off" for off in REMOVED), "s"]
    return f"\n## {model} ({known[original(model)].accuracy:.1f} %)\n\n{table(head, rows)}"


def written(pair: Sequence[Outcome | None]) -> str:
    """Write accuracies with and without the refit, and how many branches went."""
    accuracies = [
        "" if o is None else "-" if o.accuracy is None else f"{o.accuracy:.1f}" for o in pair
    ]
    gone = max((o.branches for o in pair if o is not None), default=0)
    return " / ".join(accuracies) + (f" ({gone})" if gone else "")


def seconds(spent: Sequence[Outcome]) -> str:
    """Write the seconds of choosing, and the most that making a model took."""
    return " + ".join(
        f"{max(each):.0f}" for each in zip(*((o.choosing, o.making) for o in spent), strict=True)
    )


INTRODUCTION = """# Criteria compared

What decides which channels of a group go first is `--criterion`. All else is the same for all of
them: the errors along the order, how a budget is spread over groups, the cut, and the refit. Each
is a module in `onnx_reap/criteria/` that cites its paper. The extra `methods` brings scikit-learn:
`pip install ".[methods]"`. This page is written by `scripts/compare_methods.py`;
[ranks.md](ranks.md) and [tiles.md](tiles.md) measure what else may go.

"""

FIGURES = """
Figures are top-1 accuracies on labelled images that were not used for pruning, in percent, with the
refit and without it; in the titles those of the original. A dash: so much can't be removed. In
brackets, how many groups went wholly, with their residual branches, where any did; the rows
`pro, no branch goes` show what that brings. Seed 0, no labels used, no joint refit. Without a refit
channels are sliced off, and nothing else is changed but by methods that merge channels (`fold`,
`nu`): there channels that stay take over what others brought, before the refit too if
there is one. Without a refit the command runs nothing for `l1`, `l2`, `fpgm`, `fold` and `random`,
and takes equal ratios; `pro` is here for comparison.

Seconds are of processor time, all cores together: those of choosing, once for the three budgets,
with the sensitivities of `pro`; and those of the cut and the refit of one model.

One standard error of an accuracy is 0.4 on the 5,000 images of the Fashion ResNet, 0.6 on those of
the CIFAR-10 ResNets and 2.5 on the 250 of MobileNetV2, and there are a dozen criteria: the best of
them is partly the luckiest. With the refit and `pro`, `reap` is the best or within two such errors
of it everywhere but in two places. On ResNet-20 at 40 % `thinet` is 1.2 above with this seed, and
77.6 to 77.3 over three. On MobileNetV2 at 60 %, where nothing usable is left of any model, `wanda`
is 7 above, perhaps because 225 samples leave the late layers fewer rows than unknowns, which a
criterion that looks for the best repair follows too closely. What matters more than the criterion
is the allocation, and then the refit; without a refit, criteria that merge (`nu`, `fold`) lead.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder of further models and images")
    parser.add_argument("--only", nargs="+", choices=tuple(CRITERIA), help="these criteria alone")
    parser.add_argument("--results", type=Path, default=DOCS / "methods.csv", help="a CSV file")
    parser.add_argument("--page", type=Path, default=DOCS / "methods.md", help="what is written")
    arguments = parser.parse_args()
    known = read(arguments.results)

    def learn(case: Case, outcome: Outcome) -> None:
        known[case] = outcome
        add(arguments.results, case, outcome)
        CONSOLE.print(*asdict(case).values(), *asdict(outcome).values())

    for task in all_tasks(arguments.bench):
        if original(task.name) not in known:
            learn(original(task.name), Outcome(task.accuracy(task.model)))
        for criterion in arguments.only or tuple(CRITERIA):
            missing = [case for case in cases(task.name, criterion) if case not in known]
            for case, outcome in outcomes(task, criterion, missing) if missing else ():
                learn(case, outcome)
    models = dict.fromkeys(case.model for case in known)
    page = (
        INTRODUCTION + methods() + FIGURES + "".join(comparison(model, known) for model in models)
    )
    arguments.page.write_text(page, encoding="utf-8")
    CONSOLE.print(page, markup=False, highlight=False)


if __name__ == "__main__":
    main()
