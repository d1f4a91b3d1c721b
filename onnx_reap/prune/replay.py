"""The start of a run that repeats a plan."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_reap.data.split import Samples
from onnx_reap.errors import UsageError
from onnx_reap.onnxio.load import Source
from onnx_reap.options import ReplayKeywords, Settings
from onnx_reap.progress import Progress
from onnx_reap.prune.context import Run, open_run
from onnx_reap.prune.plan import Plan, removed_by


def open_planned(
    model: Source, plan: Plan | str | Path, given: Mapping[str, Any], progress: Progress
) -> tuple[Run, tuple[int, ...]]:
    """Open a model as it was when a plan was made, on samples that only serve to run it.

    Parameters
    ----------
    given : mapping of str to object
        Settings by name, of `ReplayKeywords`.

    Returns
    -------
    removed : tuple of int
        Units that the plan removes.

    Raises
    ------
    ReapError
        If the plan doesn't fit the model.
    """
    if not isinstance(plan, (Plan, str, Path)):
        raise UsageError("plan: no plan", got=type(plan).__name__, expected="a Plan or a path")
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    planned = Settings.make({name: plan.settings.get(name, ()) for name in ("include", "exclude")})
    chosen = Settings.make(given, ReplayKeywords)
    settings = replace(chosen, include=planned.include, exclude=planned.exclude, refit=False)
    known = plan.input_shapes, plan.input_values
    run = open_run(model, None, settings, progress, *known, match=False)
    run = replace(run, samples=Samples(run.samples.every, None, None))
    return run, removed_by(plan, run.analysis)
