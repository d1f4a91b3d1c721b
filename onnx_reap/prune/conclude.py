"""The end of a run: the pruned model is verified, measured and compared with the original."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_reap.data import RAW_PIXELS
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.inputs import normalises_itself
from onnx_reap.measure.latency.compare import Timing, compare_latency
from onnx_reap.measure.quality import Quality, quality
from onnx_reap.measure.runner import first_feed
from onnx_reap.onnxio.check import check_file
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.apply import Pruned
from onnx_reap.prune.budgets import MACS, PARAMS, RESERVE, SIZE, check_met
from onnx_reap.prune.context import Run
from onnx_reap.prune.form import Factorised
from onnx_reap.prune.plan import Plan, make_plan
from onnx_reap.solve.allocation import Budget

LARGER = (
    "the file is larger than the original: more biases were added than weights removed, or weights "
    "that nodes compute from other constants, by casts or copies, are stored as what these gave"
)
IN_FLOAT32 = (
    "onnxruntime can't run the model in its own type: outputs and times are those of both models "
    "in float32"
)
COMPARED = 64  # of the fitted samples, whose outputs are compared too
LATENCY_SECONDS = 0.5  # of timing both models
UNSTEADY = 0.5  # of the median: runs that spread by more tell nothing


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    run: Run  # On the given model
    pruned: Pruned  # Its choice is one of channels of the given model, its notes are all warnings
    plan: Plan
    # On the samples that weights were fitted to, and on those held out, by which --max-drop decides
    fitted: Quality | None
    held_out: Quality | None
    factors: Sequence[Factorised]
    # Latency of the original and of the pruned model
    before: Timing
    after: Timing


def conclude(
    run: Run, pruned: Pruned, budgets: Sequence[Budget], *, notes: Sequence[str] = ()
) -> Outcome:
    """Verify a pruned model, also against the budgets on what it may cost, and measure it."""
    figures = {MACS: pruned.macs, PARAMS: pruned.params, SIZE: pruned.model.size}
    check_met(budgets, figures, pruned.choice.widths)
    choice = run.form.as_given(pruned.choice)
    factors, first = run.form.factors(pruned.choice), run.form.notes(pruned.choice)
    run = run.original
    notes = [*first, *run.samples.notes, *notes, *choice.notes, *pruned.notes]
    notes = [*_of_the_file(run.analysis, pruned.model, notes)]
    with run.clock("verify"), run.progress.stage("Verifying") as step:
        notes += check_file(run.analysis.light, pruned.model)
        fitted, held_out = _qualities(run, pruned.model)
        step()
    analysis = run.analysis
    before, after = compare_latency(
        analysis.runnable(analysis.light),
        analysis.runnable(pruned.model),
        first_feed(analysis, run.samples.every),
        analysis.providers,
        seconds=LATENCY_SECONDS,
    )
    plan = make_plan(analysis, choice.removed, run.settings, factors)
    notes += _unmeasured(pruned.model, held_out or fitted)
    if run.settings.target_latency is not None:
        notes += _unsteady(after)
    run.analysis.light.check_unchanged()
    pruned = replace(pruned, choice=choice, notes=tuple(notes))
    return Outcome(run, pruned, plan, fitted, held_out, factors, before, after)


def _of_the_file(analysis: Analysis, out: LightModel, notes: Sequence[str]) -> list[str]:
    """Add warnings about types and size; leave out that on pixels where the model scales them."""
    own = normalises_itself(analysis.model)
    kept = [note for note in notes if not (own and note == RAW_PIXELS)]
    if not analysis.runs_as_given:
        kept.append(IN_FLOAT32)
    if out.size > analysis.light.size + RESERVE:
        kept.append(LARGER)
    return kept


def _qualities(run: Run, out: LightModel) -> tuple[Quality | None, Quality | None]:
    """Compare outputs on some samples that were fitted, and on those that are held out."""
    samples = run.samples
    fitted = samples.fit and samples.fit.take(COMPARED, run.settings.seed)
    first, second = (
        None if s is None else quality(run.analysis, out, s) for s in (fitted, samples.held_out)
    )
    return first, second


def _unmeasured(out: LightModel, quality: Quality | None) -> list[str]:
    """Name the outputs that no error was measured of."""
    names = [v.name for v in out.graph.output if quality and v.name not in quality.output_error]
    if not names:
        return []
    return [f"no output error of {', '.join(names)}: only real numbers of equal shape are compared"]


def _unsteady(timing: Timing) -> list[str]:
    """Tell if a latency can't be measured."""
    if timing.spread_ms is None or timing.spread_ms <= UNSTEADY * timing.median_ms:
        return []
    return [
        f"the machine was busy: half of the runs took {timing.median_ms:.3g} ms give or take "
        f"{timing.spread_ms / 2:.2g} ms, so nothing tells whether --target-latency is met"
    ]
