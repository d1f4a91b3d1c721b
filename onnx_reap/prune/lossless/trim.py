"""Removing what nothing depends on: no data, no budget, and the same function afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from onnx_reap.graph.analysis import Analysis, analyse
from onnx_reap.graph.edit.absorb import absorb
from onnx_reap.graph.exclusion import exclusion
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.measure.compare import SAME, SAME_IN_HALF, compare, comparison_feeds
from onnx_reap.onnxio.dtypes import is_half
from onnx_reap.onnxio.float32 import in_float32
from onnx_reap.prune.apply import Made, make
from onnx_reap.prune.context import Work
from onnx_reap.prune.decide import Choice
from onnx_reap.prune.globs import check_globs
from onnx_reap.prune.lossless.redundant import DEAD, DEPENDENT, DUPLICATE, Redundant, find_redundant
from onnx_reap.prune.planning import make_plan, removed_by, widths_left
from onnx_reap.report.records import Lossless

NOTHING = "nothing to remove: no channel is dead, a duplicate or a multiple of another"


def without_redundant(work: Work) -> tuple[Made, Lossless]:
    """Remove the channels without which the model computes the same.

    First the layers that read them absorb what they bring, which leaves the function as it is; then
    nobody reads them, and they are cut like any others.

    Raises
    ------
    ReapError
        If a glob matches nothing.
    CheckError
        If outputs on random samples differ by more than rounding.
    """
    analysis = work.analysis
    check_globs(analysis, work.settings)
    with work.clock("choose"), work.progress.stage("Comparing weights") as step:
        found = find_redundant(
            analysis.model, analysis.probe, analysis.flow, analysis.groups, analysis.branches
        )
        step()
    removed = tuple(each.unit for each in found)
    notes = () if found else (NOTHING,)
    widths = widths_left(analysis, removed)
    choice = Choice(widths, removed, (None,) * len(widths), notes)
    made = make(work, choice) if not found else _made(work, choice, found)
    with work.clock("verify"):
        types = analysis.model.types
        before, after = (in_float32(model, types) for model in (analysis.proto, made.model))
        half = any(is_half(tensor_dtype_to_np_dtype(kind)) for kind in types)
        kept = kept_positions(analysis.flow, removed)
        claim = SAME_IN_HALF if half else SAME
        feeds = comparison_feeds(work.samples.every, analysis.fixed_batch, work.settings.seed)
        difference, doubts = compare(before, after, feeds, analysis.providers, claim, places=kept)
    kinds = Counter(each.kind for each in found)
    lossless = Lossless(kinds[DEAD], kinds[DUPLICATE], kinds[DEPENDENT], difference)
    return replace(made, notes=(*made.notes, *doubts)), lossless


def _made(work: Work, choice: Choice, found: list[Redundant]) -> Made:
    analysis = work.analysis
    changed = analysis.copy()
    absorb(changed, (each for unit in found for each in unit.absorbed))
    new = analysed_again(work, changed.to_proto())
    plan = make_plan(analysis, choice.removed, work.settings)
    removed = removed_by(plan, new)
    made = make(replace(work, analysis=new), replace(choice, removed=removed))
    return replace(made, choice=choice)


def analysed_again(work: Work, proto: onnx.ModelProto) -> Analysis:
    """Analyse a model whose weights changed."""
    inputs = model_inputs(proto, work.settings.input_shapes)
    why_not = exclusion(work.settings.include, work.settings.exclude)
    return analyse(proto, inputs, work.samples.every, work.analysis.providers, why_not)
