"""A basis for every stream of channels between linear layers, from what these layers see."""

from collections.abc import Iterable, Sequence

import numpy as np

from onnx_reap.errors import CheckError
from onnx_reap.graph.analysis import Analysis
from onnx_reap.graph.epilogue import find_epilogue
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import LayerMoments
from onnx_reap.measure.activations.rows import weight_to_matrix
from onnx_reap.prune.context import Run
from onnx_reap.prune.low_rank.bases import FEWEST_ROWS, channel_tap, seen_by
from onnx_reap.prune.low_rank.stream import Ends, Stream, change_basis, stream_ends
from onnx_reap.solve.backend import Backend, to_host
from onnx_reap.solve.eigenbases import stream_basis


def find_streams(run: Run) -> list[Stream]:
    """Find a basis for every group of channels that may be written in one."""
    analysis = run.analysis
    ends = {
        group.name: stream_ends(analysis.model, analysis.flow, group, run.reason_to_keep)
        for index, group in enumerate(analysis.groups)
        if index not in analysis.branches.vanishing  # else its width would mean two things
    }
    readers = {name: each.readers for name, each in ends.items() if each is not None}
    taps = [channel_tap(analysis, x, x.x, x.x_axis) for each in readers.values() for x in each]
    moments = seen_by(run, taps)
    return [
        _stream(analysis.model, name, each, moments, run.backend)
        for name, each in readers.items()
        if all(moments[x.node].count >= FEWEST_ROWS * _width(analysis, x) for x in each)
    ]


def ends_of(analysis: Analysis, stream: Stream) -> Ends:
    """Return the layers at the ends of a stream; some may have become two.

    Raises
    ------
    CheckError
        If it is none in this form of the model.
    """
    groups = {group.name: group for group in analysis.groups}
    # What the user excludes is no stream; what layers became knows no such wish.
    ends = stream_ends(analysis.model, analysis.flow, groups[stream.node], lambda _: None)
    if ends is None:
        raise CheckError("another form of the model: a stream is none any more", got=stream.node)
    return ends


def in_other_bases(analysis: Analysis, streams: Iterable[Stream]) -> Model:
    """Copy a model with its streams written in other bases; layers may have become two before."""
    model = analysis.copy()
    for stream in streams:
        change_basis(model, ends_of(analysis, stream), stream)
    return model


def _width(analysis: Analysis, linear: Linear) -> int:
    return int(analysis.probe.shapes[linear.x][linear.x_axis])


def _stream(
    model: Model, name: str, readers: Sequence[Linear], moments: LayerMoments, backend: Backend
) -> Stream:
    grams = [moments[linear.node].gram[0, ...] for linear in readers]
    reads = [backend.to_device(_read(model, linear)) for linear in readers]
    into, back = (to_host(matrix) for matrix in stream_basis(grams, reads))
    return Stream(name, into, back)


def _read(model: Model, linear: Linear) -> np.ndarray:
    """Return what a layer makes of its channels, (C, outputs x taps), in its epilogue's scale."""
    matrix = weight_to_matrix(linear, model.node(linear.node).inputs[1].values)[0]
    scaled = matrix * find_epilogue(model, linear, matrix.shape[1]).scale
    return np.asarray(scaled.reshape(len(matrix) // linear.taps, -1))
