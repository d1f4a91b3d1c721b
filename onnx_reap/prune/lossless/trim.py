"""Removing what nothing depends on: no data, no budget, and the same function afterwards."""

from collections import Counter
from dataclasses import dataclass, replace

from onnx_reap.errors import CheckError
from onnx_reap.graph.edit.absorb import absorb
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.measure.compare import SAME, SAME_IN_HALF, compare, comparison_feeds
from onnx_reap.onnxio.dtypes import is_half, to_numpy
from onnx_reap.onnxio.float32 import in_float32
from onnx_reap.prune.apply import Pruned, apply_choice
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import Choice, choice_of, removed_in
from onnx_reap.prune.goal import check_globs
from onnx_reap.prune.lossless.redundant import DEAD, DUPLICATE, Redundant, find_redundant

NONE_REDUNDANT = "nothing to remove: no channel is dead or a duplicate of another"


@dataclass(frozen=True)
class Lossless:
    """Channels that went without loss, by what they were."""

    dead: int  # Constant, or read by nobody
    duplicate: int  # Copies of others
    # Largest difference of an output on random samples, relative to the output's largest entry
    difference: float


def without_redundant(run: Run) -> tuple[Pruned, Lossless]:
    """Remove the channels without which the model computes the same.

    First the layers that read them absorb what they bring, which leaves the function as it is; then
    nobody reads them, and they are cut like any others.
    """
    analysis = run.analysis
    check_globs(analysis, run.settings)
    with run.clock("choose"), run.progress.stage("Comparing weights") as step:
        found = find_redundant(
            analysis.model, analysis.probe, analysis.flow, analysis.groups, analysis.branches
        )
        step()
    choice = choice_of(analysis, [each.unit for each in found], () if found else (NONE_REDUNDANT,))
    if not found:
        return apply_choice(run, choice), Lossless(0, 0, 0.0)
    pruned = _applied(run, choice, found)
    with run.clock("verify"):
        types = analysis.model.types
        before, after = (in_float32(model, types) for model in (analysis.light, pruned.model))
        half = any(is_half(to_numpy(kind)) for kind in types)
        kept = kept_positions(analysis.flow, choice.removed)
        claim = SAME_IN_HALF if half else SAME
        feeds = comparison_feeds(run.samples.every, analysis.fixed_batch, run.settings.seed)
        difference, doubts = compare(before, after, feeds, analysis.providers, claim, places=kept)
    kinds = Counter(each.kind for each in found)
    lossless = Lossless(kinds[DEAD], kinds[DUPLICATE], difference)
    return replace(pruned, notes=(*pruned.notes, *doubts)), lossless


def _applied(run: Run, choice: Choice, found: list[Redundant]) -> Pruned:
    changed = run.analysis.copy()
    absorb(changed, (each for unit in found for each in unit.absorbed))
    new = run.analysed(changed.to_light())
    removed = removed_in(choice.removed, run.analysis, new)
    if len(removed) != len(choice.removed):
        raise CheckError(
            "--lossless: the model has other channels once layers absorbed what goes",
            got=f"{len(removed)} channels to remove",
            expected=str(len(choice.removed)),
            hint="report it as a bug; --exclude leaves nodes alone",
        )
    return replace(apply_choice(run.on(new), replace(choice, removed=removed)), choice=choice)
