"""Measure lower ranks, fewer channels, and both at half of the MACs; write docs/ranks.md.

    python scripts/compare_ranks.py                   # the shipped model
    python scripts/compare_ranks.py --bench FOLDER    # and the models of benchmark.py

Rows of the page that are not run again stay.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import CONSOLE, Task, all_tasks
from compare_tiles import log_softmax, outputs
from doc_tables import read_rows, write_page

import onnx_reap

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ranks.md"
LEFT = 0.5  # of the multiply-accumulates
WAYS = {"channels": None, "lower ranks": "only", "both": "also"}
TITLES = ("model", "what goes", "accuracy", "divergence", "output error", "layers", "streams")


@dataclass(frozen=True)
class Row:
    """One way to halve a model, as text; all but accuracies are means over seeds."""

    key: str
    what: str
    accuracy: str
    divergence: str
    error: str
    layers: str
    streams: str


TEXT = """# Lower ranks, fewer channels, or both

`--target-macs 50%`, alone, with `--low-rank only` and with `--low-rank`; without the joint refit.
Made by `scripts/compare_ranks.py`, with the images of `scripts/benchmark.py`.

Accuracy (of the original model in brackets), the divergence of the class probabilities from the
original's, and the squared output error over the variance are those of labelled images that were
not used otherwise; means over {seeds} seeds, accuracies of each. *Layers*: how many became two.
*Streams*: groups of channels that were written in another basis and lost coordinates. For this
page ranks were timed on one core, on which other work ran.
"""


def measured(task: Task, what: str, seeds: int) -> Row:
    """Halve a model with several seeds."""
    before = outputs(task, task.model)
    found = []
    for seed in range(seeds):
        settings: dict[str, Any] = {
            "target_macs": LEFT,
            "low_rank": WAYS[what],
            "joint_refit": 0,
            "tune": 0,
            "seed": seed,
        }
        result = onnx_reap.reap(task.model, task.calibration, **settings, **task.preprocess)
        after = outputs(task, result.model)
        p, q = log_softmax(before), log_softmax(after)
        schemes = [factor.scheme for factor in result.report.factors]
        found.append(
            (
                100 * float(np.mean(after.argmax(1) == task.labels)),
                float((np.exp(p) * (p - q)).sum(1).mean()),
                float(np.square(after - before).sum() / np.square(before - before.mean(0)).sum()),
                len(schemes) - schemes.count("stream"),
                schemes.count("stream"),
            )
        )
    accuracies, divergence, error, layers, streams = zip(*found, strict=True)
    original = 100 * float(np.mean(before.argmax(1) == task.labels))
    return Row(
        f"{task.name} ({original:.1f} %)",
        what,
        ", ".join(f"{each:.1f} %" for each in accuracies),
        f"{np.mean(divergence):.4f}",
        f"{np.mean(error):.4f}",
        f"{np.mean(layers):.3g}",
        f"{np.mean(streams):.3g}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of models' names")
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    rows = read_rows(PAGE, Row, TITLES, keys=2)
    for task in all_tasks(given.bench):
        if any(part in task.name for part in given.only):
            for what in WAYS:
                row = measured(task, what, given.seeds)
                CONSOLE.print(*astuple(row), sep="  ")
                rows[row.key, row.what] = row
                write_page(PAGE, TEXT.format(seeds=given.seeds), TITLES, rows.values())


if __name__ == "__main__":
    main()
