"""Prune a small model of each kind of what people bring, and tell what could be cut and what not.

    python scripts/kinds.py                        # all
    python scripts/kinds.py --only '*Attention*'   # some; other rows of the table stay

Models are built here, with random weights; the samples are random too. Each cut is compared with
the masked original on samples of its own.
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from doc_tables import (
    COVERAGE,
    FAILED,
    LONGEST,
    REFUSED,
    most_frequent_reasons,
    one_line,
    read_rows,
    write_section,
)  # fmt: skip
from kind_list import KINDS, Kind
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph, NotImplemented
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)  # fmt: skip
from rich.console import Console
from small_graphs import Graph

import onnx_reap
from onnx_reap.report.records import Report

RATIO, SAMPLES, FEEDS = 0.5, 96, 8  # channels to remove; samples to refit with, and to compare on
TOLERANCE = 1e-3  # relative to an output's largest entry,
TOLERANCES = {"float16": 5e-2, "bfloat16": 2e-1}  # or so much where the output is of such a type
NO_KERNEL = (InvalidGraph, NotImplemented)
HEADING = "By kind"
TITLES = (
    "kind",
    "operators",
    "opset",
    "MACs off %",
    "error refitted %",
    "error sliced %",
    "layers frozen",
    "reasons",
    "outcome",
)
TEXT = f"""\
What `onnx-reap --ratio 0.5 --criterion l1` does to one small model of each kind of what people
bring, made by `scripts/kinds.py`. Weights are random, and so are the {SAMPLES} samples: what is cut
and why is the same with trained ones, the errors are not. *Error*: squared error of the output
over its variance, on samples kept aside; *sliced* is the same cut without a refit. *Same at 1, 2,
3*: at these batch sizes the sliced model gives what the original gives with the removed channels
zeroed in the layers that read them; *on feeds*: the same for models without a batch axis, on so
many feeds; *in parts*: an operator was written as others. Otherwise as above.
"""
CONSOLE = Console(width=200)
Samples = Any  # arrays by input, or a list of feeds


@dataclass(frozen=True)
class Row:
    """What became of one model, as text."""

    kind: str
    operators: str
    opset: str
    macs_off: str = ""  # Percent of the multiply-accumulates that went
    refitted: str = ""  # Output error on samples kept aside, in percent of what outputs vary by
    sliced: str = ""  # The same without a refit
    frozen: str = ""  # Layers some of whose channels must stay
    reasons: str = ""  # Most frequent reasons why
    outcome: str = ""  # Batches at which the cut model is the masked one, or why there is none


@dataclass(frozen=True)
class Example:
    """A kind's model at one opset, and samples for it."""

    kind: Kind
    opset: int
    model: onnx.ModelProto
    samples: Callable[[int, int], Samples]  # as many as the first says, drawn by the second


def example(kind: Kind, opset: int) -> Example:
    graph = Graph(opset)
    model = graph.model(kind.build(graph))
    if kind.quantised:
        model = quantised(model, kind.quantised, graph.samples(SAMPLES, 3))
    return Example(kind, opset, model, graph.samples)


def examples(only: str = "*") -> Iterator[Example]:
    """Build the models whose kind or operators match."""
    for kind in KINDS:
        if fnmatch.fnmatch(f"{kind.name}: {kind.operators}", only):
            yield from (example(kind, opset) for opset in kind.opsets)


def measure(given: Example, *, refit: bool = True) -> Row:
    """Prune one model, and compare it with its mask."""
    key = given.kind.name, given.kind.operators, str(given.opset)
    data = given.samples(SAMPLES, 1)
    settings: dict[str, Any] = {"ratio": RATIO, "criterion": "l1", "tune": 0}
    try:
        found = onnx_reap.inspect(given.model, data)
        if found.nothing:
            return Row(*key, "0.0", "", "", *_frozen(found), "nothing can go")
        sliced = onnx_reap.reap(given.model, data, refit=False, **settings)
        whole = onnx_reap.reap(given.model, data, **settings) if refit else sliced
        outcome = compared(given, sliced)
    except onnx_reap.ReapError as error:
        return Row(*key, outcome=REFUSED + one_line(str(error), 3 * LONGEST))
    report = sliced.report
    off = 100 * (1 - report.after.macs / report.before.macs)
    refitted, cut = (f"{_error(each.report):.1f}" for each in (whole, sliced))
    return Row(*key, f"{off:.1f}", refitted, cut, *_frozen(found), outcome)


def _frozen(found: onnx_reap.Inspection) -> tuple[str, str]:
    """Count the layers some of whose channels must stay, and tell why."""
    entries = [node for reason in found.frozen for node in reason.nodes]
    general, _, _ = one_line(found.nothing or "").partition(" / expected")
    reasons = most_frequent_reasons(entries) or general
    return str(len({entry.node for entry in entries})), reasons


def _error(report: Report) -> float:
    """Return the error of the outputs in percent of what they vary by."""
    assert report.held_out is not None
    return 100 * max(report.held_out.output_error.values())


def compared(given: Example, sliced: onnx_reap.Result) -> str:
    """Run the cut model beside the masked one, on samples that no run knew."""
    samples = given.samples(FEEDS, 2)
    open_ = isinstance(samples, dict)
    feeds = [{k: v[:n] for k, v in samples.items()} for n in (1, 2, 3)] if open_ else samples
    masked, cut = (runner(m) for m in (onnx_reap.mask(given.model, sliced.plan), sliced.model))
    for feed in feeds:
        want, have = masked(feed), cut(feed)
        if want.shape != have.shape or want.dtype != have.dtype:
            return f"{FAILED}{have.dtype} {have.shape}, not {want.dtype} {want.shape}"
        tolerance = TOLERANCES.get(want.dtype.name, TOLERANCE)
        a, b = want.astype(np.float64), have.astype(np.float64)
        if not (off := np.abs(a - b).max() / np.abs(a).max()) <= tolerance:
            return f"{FAILED}off by {off:.2g} of the largest entry"
    told = "same at 1, 2, 3" if open_ else f"same on {len(samples)} feeds"
    after = {node.op_type for node in sliced.model.graph.node}
    lost = {node.op_type for node in given.model.graph.node if node.domain} - after
    return told + "".join(f"; {op} in parts" for op in sorted(lost))


def runner(model: onnx.ModelProto) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """Run a model in onnxruntime, or in ONNX's reference where that has no kernel for it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except NO_KERNEL:
        session = ReferenceEvaluator(model)
    return lambda feed: session.run(None, dict(feed))[0]


class _AtOnce(CalibrationDataReader):  # type: ignore[misc]
    """Hands all samples over at once."""

    def __init__(self, samples: Samples):
        self._left = iter([samples])

    def get_next(self) -> Samples:
        """Return a feed, or None at the end."""
        return next(self._left, None)


def quantised(model: onnx.ModelProto, form: str, samples: Samples) -> onnx.ModelProto:
    """Quantise a model as onnxruntime does, its weights per channel if the form says so."""
    with tempfile.TemporaryDirectory() as folder:
        plain, path = Path(folder) / "plain.onnx", Path(folder) / "quantised.onnx"
        onnx.save(model, plain)
        if form == "dynamic":
            quantize_dynamic(plain, path)
        else:
            name, _, per_channel = form.partition(" ")
            given = {"quant_format": QuantFormat[name], "per_channel": bool(per_channel)}
            quantize_static(plain, path, _AtOnce(samples), **given)
        return onnx.load(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="GLOB", default="*", help="'kind: operators' alone")
    arguments = parser.parse_args()
    rows = read_table()
    for given in examples(arguments.only):
        row = measure(given)
        rows[row.kind, row.operators, row.opset] = row
        CONSOLE.print(*astuple(row), sep="  ", markup=False, highlight=False, soft_wrap=True)
    known = [(k.name, k.operators, str(opset)) for k in KINDS for opset in k.opsets]
    write_section(COVERAGE, HEADING, TEXT, TITLES, [rows[key] for key in known if key in rows])


def read_table() -> dict[tuple[str, str, str], Row]:
    """Read the rows that were written before, by kind, operators and opset."""
    return read_rows(COVERAGE, Row, TITLES, keys=3, heading=HEADING)


if __name__ == "__main__":
    main()
