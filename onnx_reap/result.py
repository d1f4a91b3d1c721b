"""The end of a run: what was made is verified, compared with the original, and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from onnx_reap.analysis import normalises_itself
from onnx_reap.budget import check_met
from onnx_reap.data import RAW_PIXELS
from onnx_reap.drop import Drop
from onnx_reap.making import Made, quality
from onnx_reap.plan.allocate import Budget
from onnx_reap.plan.plan import Plan
from onnx_reap.planning import make_plan
from onnx_reap.report.records import Lossless, Report
from onnx_reap.reporting import make_report
from onnx_reap.verify import check_file
from onnx_reap.work import Work

JUDGES = 64  # of the fitted samples, whose outputs are compared too


@dataclass(frozen=True)
class Result:
    """A pruned model, what happened, and how to do it again.

    Attributes
    ----------
    model : onnx.ModelProto
    report : Report
    plan : Plan
    """

    model: onnx.ModelProto
    report: Report
    plan: Plan


def conclude(
    work: Work,
    made: Made,
    *,
    budgets: Sequence[Budget] = (),
    drop: Drop | None = None,
    lossless: Lossless | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Verify a finished model, measure it, and put all together.

    Parameters
    ----------
    budgets : sequence of Budget
        What the model may cost.
    drop : Drop, optional
        What was lost, where that was bounded.
    lossless : Lossless, optional
        What went, where nothing was to be lost.
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
        size=made.model.ByteSize(),
        widths=made.choice.widths,
    )
    analysis, samples = work.analysis, work.samples
    notes = [*samples.notes, *notes, *made.choice.notes, *made.notes]
    if normalises_itself(analysis.model):
        notes = [note for note in notes if note != RAW_PIXELS]
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
        notes=notes,
    )
    return Result(made.model, report, make_plan(analysis, made.choice.removed, work.settings))
