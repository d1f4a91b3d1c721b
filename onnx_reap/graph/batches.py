"""Whether the first axis of a model's inputs is that of a batch, and what to run it on if not.

It is where samples don't influence each other. Nodes of a graph do, and steps of a sequence,
whatever the exporter named the axis: such a model is run on whole feeds, one at a time.
"""

from collections.abc import Sequence

import numpy as np

from onnx_reap.data import Calibration, InputSpec
from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe, probe
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.session import Feed, run, session

CLOSE = 1e-2
"""Difference that neighbours in a batch may make, relative to the largest entry: less than mixing
samples does, more than quantising a batch by its own range."""

FEW = 3
"""Samples that tell whether they influence each other."""

MIXED = (
    "what the model gives for a sample depends on others in its batch: if the first axis is that "
    "of time or of a graph's nodes, give feeds one by one (in Python an iterable of mappings, in a "
    "file arrays with one more axis in front), and each counts as a sample"
)

Probed = tuple[Probe, int | None, Calibration]


def probe_samples(
    model: Model, inputs: Sequence[InputSpec], samples: Calibration, providers: Sequence[str]
) -> Probed:
    """Run a model on a few samples, rows of batches or else whole feeds.

    Returns
    -------
    probe : Probe
    fixed : int or None
        The batch that the model insists on.
    samples : Calibration
        As the model takes them.
    """
    if samples.alone:
        return _whole(model, samples, providers)
    feeds = samples.feeds()
    try:
        found = _batches(model, inputs, samples, providers)
    except ReapError:
        if feeds is None:
            raise
        try:
            return _whole(model, feeds, providers)
        except ReapError:
            pass
        raise
    probed, fixed, _ = found
    images = any(spec.channel_axis is not None for spec in inputs)  # one by one, surely
    if images or feeds is None or not _mixes(model, samples, probed, fixed or FEW, providers):
        return found
    if not samples.by_feed:
        return probed, fixed, samples.with_note(MIXED)
    try:
        return _whole(model, feeds, providers)
    except ReapError:
        return found


def _whole(model: Model, samples: Calibration, providers: Sequence[str]) -> Probed:
    """Run whole feeds: a largest, and a smallest to see which sizes differ."""
    try:
        probed = probe(model, samples.extremes(), providers, batch=1)
    except ReapError as error:
        raise samples.refusal or error from error
    return probed, 1, samples


def _batches(
    model: Model, inputs: Sequence[InputSpec], samples: Calibration, providers: Sequence[str]
) -> Probed:
    sizes = [spec.shape[0] for spec in inputs if spec.shape and not _is_whole(spec, samples)]
    fixed = next((size for size in sizes if size is not None), None)
    if fixed is not None:
        try:
            return probe(model, [_feed(samples, fixed)], providers), fixed, samples
        except ReapError as error:
            raise (_of_many_batches(inputs) if len(set(sizes)) > 1 else error) from error
    try:
        feeds = [_feed(samples, 2), _feed(samples, 3)]
        return probe(model, feeds, providers), None, samples
    except ReapError:
        if samples.by_feed and (whole := samples.feeds()) is not None:
            try:
                return _whole(model, whole, providers)
            except ReapError:
                pass
        # Some exports declare the batch dynamic, yet hold a batch of 1 inside.
        return probe(model, [_feed(samples, 1)], providers), 1, samples


def _is_whole(spec: InputSpec, samples: Calibration) -> bool:
    """Whether an input is fed the same with every batch though its first axis is not of size 1."""
    return spec.shape[0] != 1 and len(samples.shapes[spec.name]) == len(spec.shape)


def _of_many_batches(inputs: Sequence[InputSpec]) -> ReapError:
    return ReapError(
        "the model's inputs are of batches of different sizes",
        got=", ".join(map(str, inputs)),
        expected="samples along the first axis of every input",
        hint="--data that holds such an input once, as a batch of 1 has it, beside samples of the "
        "others; export the model with the batch first, or prune the part without this input",
    )


def _feed(samples: Calibration, batch: int) -> Feed:
    return next(iter(samples.batches(batch, pad=True)))


def _mixes(
    model: Model, samples: Calibration, probed: Probe, batch: int, providers: Sequence[str]
) -> bool:
    """Whether what a model gives for a sample depends on the others in its batch, or on its place.

    Samples are run in the opposite order, with another one in place of the first.
    """
    if batch < 2 or len(samples) < 2:
        return False
    names = [
        t.name
        for t in model.graph.outputs
        if t.inputs and is_float(probed.dtypes.get(t.name, np.dtype(np.int64)))
    ]
    if not names:
        return False
    places = np.minimum(np.arange(batch), len(samples) - 1)
    feeds = [
        _feed(samples.at(p.tolist()), batch) for p in (places, places[[*range(batch)[:0:-1], 1]])
    ]
    active = session(model.to_run(), providers, outputs=names, optimize=False)
    try:
        first, second, again = (run(active, names, feed) for feed in (*feeds, feeds[0]))
    except ReapError:
        return False
    return any(
        _differ(first[name], second[name], _axis(name, first[name], probed, batch))
        and not _differ(first[name], again[name], None)
        for name in names
    )


def _axis(name: str, x: np.ndarray, probed: Probe, batch: int) -> int | None:
    """Return the axis of an output along which samples lie, one entry each, if there is one."""
    grows = probed.dynamic.get(name, frozenset(range(x.ndim)[:1]))
    return next((axis for axis in grows if x.shape[axis] == batch), None)


def _differ(a: np.ndarray, b: np.ndarray, axis: int | None) -> bool:
    """Whether an output differs; all samples but one lie the other way along an axis, if given."""
    if a.shape != b.shape:
        return False  # as many entries as the data want
    if axis is not None:
        a, b = (np.moveaxis(x, axis, 0) for x in (a, b))
        a, b = a[:0:-1], b[:-1]
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    error = np.abs(a - b)[finite].max(initial=0.0)
    return bool(error > CLOSE * np.abs(a[finite]).max(initial=0.0))
