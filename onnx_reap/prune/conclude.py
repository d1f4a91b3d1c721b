"""The end of a run: what was made is verified, compared with the original, and described."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from onnx_reap.data import RAW_PIXELS
from onnx_reap.graph.inputs import normalises_itself
from onnx_reap.measure.accuracy_loss import EstimatedLoss
from onnx_reap.measure.quality import check_file, quality
from onnx_reap.onnxio import aside
from onnx_reap.onnxio.files import Content, check_outputs, write_all
from onnx_reap.onnxio.save import data_path, model_files
from onnx_reap.prune.apply import Made
from onnx_reap.prune.context import Work
from onnx_reap.prune.goal import RESERVE, check_met
from onnx_reap.prune.low_rank.factoring import lowered, original_choice, ranks_left
from onnx_reap.prune.plan import FactorPlan, Plan
from onnx_reap.prune.planning import make_plan
from onnx_reap.report.build import make_report
from onnx_reap.report.records import FactorResult, Lossless, Report
from onnx_reap.report.zeros import Tiling
from onnx_reap.solve.allocation import Budget

LARGER = (
    "the file is larger than the original: more biases came than weights went, or weights that "
    "nodes make of other constants, by casts or copies, are stored as what these nodes gave"
)
TWIN = (
    "onnxruntime can't run the model in its own type: outputs and times are those of both models "
    "in float32"
)
JUDGES = 64  # of the fitted samples, whose outputs are compared too


@dataclass(frozen=True)
class Result:
    """A pruned model, what happened, and how to do it again.

    Attributes
    ----------
    light : onnx.ModelProto
        The model, without the weights that are set aside.
    report : Report
    plan : Plan
    sources : frozenset of Source
        Files that weights of the original lie in. They have to stay as they are: weights that did
        not change are read from there.
    held : mapping of str to array
        Weights that are set aside, by name.
    """

    light: onnx.ModelProto = field(repr=False)
    report: Report
    plan: Plan
    sources: frozenset[aside.Source] = field(default=frozenset(), repr=False, kw_only=True)
    held: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, kw_only=True)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model with all its weights; beyond 2 GB only `save` writes it."""
        aside.check_as_found(self.sources)
        return aside.whole(self.light)

    def files(self, path: Path) -> dict[Path, Content]:
        """Return the files of the model, to be written to `path`; the model's own is the last.

        Raises
        ------
        ReapError
            If a file that weights of the original lie in changed meanwhile.
        """
        aside.check_as_found(self.sources)
        return model_files(path, self.light)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model: in one file, or in two if weights of the original lie in other files.

        Two if the original is larger than 2 GB as well: beside `path` comes a file of its name with
        `.data` behind it. Both appear whole, or none does, and the same model is the same bytes.

        Raises
        ------
        ReapError
            If a file can't be written, or holds weights of the original, or such a file changed.
        """
        path = Path(path)
        files = self.files(path)
        names = {path: "the output model", data_path(path): "the data of the output model"}
        inputs = {f"the input's data {source.path.name}": source.path for source in self.sources}
        check_outputs({names[each]: each for each in files}, inputs)
        write_all(files)


def conclude(
    work: Work,
    made: Made,
    *,
    budgets: Sequence[Budget] = (),
    drop: EstimatedLoss | None = None,
    lossless: Lossless | None = None,
    tiling: Tiling | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Verify a finished model, measure it, and put all together.

    Parameters
    ----------
    budgets : sequence of Budget
        What the model may cost.
    drop : EstimatedLoss, optional
        What was lost, where that was bounded.
    lossless : Lossless, optional
        What went, where nothing was to be lost.
    tiling : Tiling, optional
        What was zeroed in a pattern.
    notes : sequence of str
        Warnings besides those of the samples and of the making.

    Raises
    ------
    TargetError
        If the model costs more.
    CheckError
        If it is not valid, or has another interface than the original.
    """
    check_met(
        budgets,
        macs=made.macs,
        params=made.params,
        size=aside.size_of(made.model),
        widths=made.choice.widths,
    )
    ranks, factored = ranks_left(work, made.choice), work.factored
    made = replace(made, choice=original_choice(work, made.choice))
    work = work.original
    analysis, samples = work.analysis, work.samples
    notes = [
        *([] if factored is None else lowered(factored, ranks)),
        *samples.notes,
        *notes,
        *made.choice.notes,
        *made.notes,
    ]
    if normalises_itself(analysis.model):
        notes = [note for note in notes if note != RAW_PIXELS]
    if not analysis.runs_as_given:
        notes.append(TWIN)
    if aside.size_of(made.model) > aside.size_of(analysis.proto) + RESERVE:
        notes.append(LARGER)
    with work.clock("verify"), work.progress.stage("Verifying") as step:
        notes += check_file(analysis.proto, made.model)
        seen = samples.fit and samples.fit.take(JUDGES, work.settings.seed)
        fitted, held_out = (
            None if s is None else quality(analysis, made.model, s)
            for s in (seen, samples.held_out)
        )
        step()
    report = make_report(
        work,
        made,
        fitted=fitted,
        held_out=held_out,
        drop=drop,
        lossless=lossless,
        factors=[
            FactorResult(factor.node, factor.scheme, rank, factor.rank, error)
            for factor, rank, error in ranks
        ],
        tiling=tiling,
        notes=notes,
    )
    plan = make_plan(analysis, made.choice.removed, work.settings)
    factors = (FactorPlan(factor.node, factor.scheme, rank) for factor, rank, _ in ranks)
    plan = replace(plan, factors=tuple(factors))
    sources = aside.files_behind(analysis.proto)
    aside.check_as_found(sources)
    return Result(made.model, report, plan, sources=sources, held=aside.arrays(made.model))
