"""Synthetic samples of a run, matched to what the model tells of those that it was trained on."""

from dataclasses import replace
from typing import Any

from onnx_reap.data.replaced import with_values
from onnx_reap.data.split import divide
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.synthesis.matching import Matched, matched_images
from onnx_reap.onnxio.load import Source
from onnx_reap.options import Settings
from onnx_reap.progress import Progress
from onnx_reap.prune.context import Run, open_run
from onnx_reap.prune.form import Form


def open_matched(model: Source, data: Any, settings: Settings, progress: Progress) -> Run:
    """Open a run, see `open_run`, on better samples than made-up ones if it estimates anything."""
    run = open_run(model, data, settings, progress)
    if data is not None or run.samples.fit is None:
        return run
    with run.clock("match"):
        analysis, made_up = run.analysis, run.samples.every
        inputs = model_inputs(analysis.light.proto, run.settings.input_shapes)
        found = matched_images(analysis, inputs, made_up, run.progress)
    if found is None:
        return run
    every = with_values(
        made_up, inputs[0].name, found.values, origin="synthetic, matched", notes=[_note(found)]
    )
    samples = divide(every, run.settings, made_up=True)
    return replace(run, form=Form(replace(analysis, samples=every)), samples=samples)


def _note(found: Matched) -> str:
    return (
        "no --data: errors are those on synthetic samples, which were moved until activations have "
        f"the means and variances that {found.statistics} BatchNormalizations store (distance "
        f"{found.before:.2g} before, {found.after:.2g} after)"
    )
