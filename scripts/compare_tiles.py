"""Measure zeros in patterns, with channels put in order first and without; write docs/tiles.md.

    python scripts/compare_tiles.py --only Fashion      # the shipped model
    python scripts/compare_tiles.py --bench FOLDER      # and the models of benchmark.py

No channel is removed. Every run adds a row to a file of results; what is in there already is not
run again, so that a comparison may be made in pieces. Remove the file to start anew.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from benchmark import CONSOLE, Task, all_tasks

import onnx_reap

DOCS = Path(__file__).resolve().parent.parent / "docs"
PATTERNS: dict[str, dict[str, Any]] = {
    "2:4": {"pattern": "2:4"},
    "8x1, 50 %": {"tile": "8x1", "tile_sparsity": 0.5},
}


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes
    ----------
    accuracy : float
        Top-1 on labelled images that were not used, in percent.
    divergence, error : float
        On the same images: Kullback-Leibler divergence of the class probabilities from the original
        model's, and squared error of the outputs over their variance.
    masks : float
        Share of the scores that the masks took, in percent, before the walk chooses again and
        repairs.
    moved : float
        Largest difference of an output by the other order, relative to the largest entry.
    """

    model: str
    pattern: str
    permuted: bool
    accuracy: float
    divergence: float
    error: float
    masks: float
    moved: float
    seconds: float


def outputs(task: Task, model: onnx.ModelProto | Path) -> np.ndarray:
    """Return the class scores of the labelled images, (N, classes)."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = (task.images[at : at + 50] for at in range(0, len(task.images), 50))
    return np.concatenate([session.run(None, {name: task.prepared(x)})[0] for x in parts])


def measured(task: Task, before: np.ndarray, pattern: str, *, permuted: bool) -> Row:
    start = time.perf_counter()
    given = {**PATTERNS[pattern], **task.preprocess, "permutation": permuted, "tune": 0}
    result = onnx_reap.reap(task.model, task.calibration, **given)
    seconds = time.perf_counter() - start
    after = outputs(task, result.model)
    p, q = log_softmax(before), log_softmax(after)
    tiling = result.report.tiling
    assert tiling is not None
    return Row(
        task.name,
        pattern,
        permuted,
        100 * float(np.mean(after.argmax(1) == task.labels)),
        float((np.exp(p) * (p - q)).sum(1).mean()),
        float(np.square(after - before).sum() / np.square(before - before.mean(0)).sum()),
        100 * tiling.score_lost,
        tiling.difference or 0.0,
        seconds,
    )


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(1, keepdims=True)
    result: np.ndarray = x - np.log(np.exp(x).sum(1, keepdims=True))
    return result


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        _, *lines = csv.reader(file)
    return [
        Row(model, pattern, permuted == "1", *(float(number) for number in numbers))
        for model, pattern, permuted, *numbers in lines
    ]


def add(path: Path, row: Row) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row) | {"permuted": int(row.permuted)})


def page(rows: Sequence[Row], originals: dict[str, float]) -> str:
    """Return docs/tiles.md."""
    names = ["model", "pattern", "channels", "accuracy", "divergence", "output error"]
    lines = [[*names, "masks take"], ["---"] * 7]
    for row in sorted(rows, key=lambda row: (row.model, row.pattern, row.permuted)):
        line = [
            f"{row.model} ({originals[row.model]:.1f} %)",
            row.pattern,
            "in order" if row.permuted else "as they were",
            f"{row.accuracy:.1f} %",
            f"{row.divergence:.4f}",
            f"{row.error:.4f}",
            f"{row.masks:.1f} %",
        ]
        lines.append(line)
    moved = max((row.moved for row in rows), default=0.0)
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return TEXT.format(table=table, moved=f"{moved:.0e}")


TEXT = """# Zeros in patterns

`--pattern 2:4` and `--tile 8x1 --tile-sparsity 0.5` set half of the weights to zero in a pattern
that sparse kernels take, and repair the others; no channel goes here. Made by
`scripts/compare_tiles.py`, with the images of `scripts/benchmark.py`.

Channels are put in another order first, so that weights which matter little share tiles, and
weights which matter much don't share fours; `--no-permutation` leaves them where they are. The
order is no approximation: on random inputs of several scales it moved outputs by at most {moved} of
the largest entry, which is rounding, and a run stops at more than 1e-3.

Accuracy (of the original model in brackets), the divergence of the class probabilities from the
original's, and the squared output error over the variance are those of labelled images that were
not used otherwise. *Masks take* the share of all weights' scores before any repair; the walk then
chooses again by what reaches each layer, and repairs.

{table}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of models' names")
    parser.add_argument("--results", type=Path, default=Path("compare_tiles.csv"))
    given = parser.parse_args()
    rows, originals = read(given.results), {}
    for task in all_tasks(given.bench):
        if not any(part in task.name for part in given.only):
            continue
        before = outputs(task, task.model)
        originals[task.name] = 100 * float(np.mean(before.argmax(1) == task.labels))
        done = {(row.model, row.pattern, row.permuted) for row in rows}
        for pattern in PATTERNS:
            for permuted in (False, True):
                if (task.name, pattern, permuted) in done:
                    continue
                row = measured(task, before, pattern, permuted=permuted)
                CONSOLE.print(row)
                add(given.results, row)
                rows.append(row)
    (DOCS / "tiles.md").write_text(
        page([row for row in rows if row.model in originals], originals), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
