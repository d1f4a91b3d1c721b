"""Whether the first axis of a model's inputs is that of a batch, and what to run it on if not.

It is where samples don't influence each other. Nodes of a graph do, and steps of a sequence,
whatever the exporter named the axis: such a model is run on whole feeds, one at a time.
"""

from collections.abc import Collection, Sequence

import numpy as np

from onnx_reap.data import Calibration, InputSpec
from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe, probe
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.session import Feed, run, session

ROUNDING = 1e-5
"""Difference that a sample's place in a batch may make, relative to the largest entry. Kernels give
the same to the bit, as a rule, and samples that hardly influence each other still do."""

QUANTISING = 1e-2
"""The same where a batch is quantised by its own range."""

NOISE = 10.0
"""How many times the difference between two runs on the same feed may be the other one's."""

FEW = 3
"""Samples that tell whether they influence each other."""

MIXED = (
    "what the model gives for a sample depends on others in its batch: if the first axis is that "
    "of time or of a graph's nodes, give feeds one by one (in Python an iterable of mappings, in a "
    "file arrays with one more axis in front, without data their --input-shapes), and each counts "
    "as a sample"
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
    if images or not _mixes(model, samples, probed, fixed, providers):
        return found
    if feeds is None or not samples.by_feed:
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
    model: Model,
    samples: Calibration,
    probed: Probe,
    fixed: int | None,
    providers: Sequence[str],
) -> bool:
    """Whether what a model gives for a sample depends on the others in its batch, or on its place.

    Samples are run in the opposite order, with another one in place of the first.
    """
    batch = fixed or FEW
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
    turned = places[[*range(batch)[:0:-1], 1]]
    feeds = [_feed(samples.at(order.tolist()), batch) for order in (places, turned)]
    active = session(model.to_run(), providers, outputs=names, optimize=False)
    try:
        first, second, again = (run(active, names, feed) for feed in (*feeds, feeds[0]))
    except ReapError:
        return False
    by_range = any("DynamicQuantize" in node.op for node in model.nodes)
    tolerance = QUANTISING if by_range else ROUNDING
    return any(
        _influence(a, second[name], None if fixed else probed.dynamic.get(name, ()), batch)
        > max(tolerance, NOISE * _distance(a, again[name]))
        for name, a in first.items()
    )


def _influence(a: np.ndarray, b: np.ndarray, grows: Collection[int] | None, batch: int) -> float:
    """Tell by how much the results of two runs in opposite order differ beyond their order.

    Parameters
    ----------
    grows : collection of int or None
        Axes of the output whose size depends on the batch; None if that isn't known.
    """
    if a.shape != b.shape:
        return 0.0  # as many entries as the data want
    if grows is not None and not grows:
        return _distance(a, b)  # made of all samples
    axes = range(a.ndim) if grows is None else grows
    ways = (
        _distance(x[:0:-1], y[:-1])
        for axis in axes
        if a.shape[axis] and a.shape[axis] % batch == 0
        for x, y in zip(_by_sample(a, axis, batch), _by_sample(b, axis, batch), strict=True)
    )
    return min(ways, default=0.0)


def _by_sample(x: np.ndarray, axis: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Put samples first that lie along an axis, each in one piece or its entries apart."""
    rows = np.moveaxis(x, axis, 0)
    rest = rows.shape[1:]
    apart = rows.reshape(-1, batch, *rest).swapaxes(0, 1)
    return rows.reshape(batch, -1, *rest), apart


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of entries that are finite, relative to the largest entry."""
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
    error = np.abs(a - b).max(initial=0.0)
    return float(error / np.abs([a, b]).max()) if error else 0.0
