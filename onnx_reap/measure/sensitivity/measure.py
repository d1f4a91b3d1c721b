"""Measure what trials do to the outputs: all of them by one forward and one backward pass.

A trial changes some layers' constants, and so their outputs by what the layers make of the
difference. Its product with the gradient of a random direction of the model's outputs tells,
squared and on average, how the outputs feel it, see `divergence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_reap.data import Calibration
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.moments import batch_size
from onnx_reap.measure.activations.rows import own_samples
from onnx_reap.measure.autodiff.backward import OLDEST, SIZES, Facts, backpropagate, opset, reached
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.measure.autodiff.tape import PREFIX, Tape, attributes
from onnx_reap.measure.sensitivity.divergence import Metric
from onnx_reap.measure.sensitivity.trial import Change, Trial
from onnx_reap.onnxio.session import run, session
from onnx_reap.solve.chunks import in_chunks

SAMPLES = f"{PREFIX}samples"  # input: how many samples a batch has
MOST = 8  # samples a run: more are no faster
LARGEST = 256 << 20  # bytes of constants of the trials in one model


@dataclass(frozen=True)
class Bench:
    """What trials are measured on.

    Attributes
    ----------
    model : Model
        The original; it is read only.
    samples : Calibration
        Best not among those that trials were fitted on.
    fixed : int or None
        The batch that the model insists on.
    seed : int
        Of the random directions.
    """

    model: Model
    probe: Probe
    layers: Sequence[Linear]
    metrics: Sequence[Metric]
    samples: Calibration
    fixed: int | None
    providers: Sequence[str]
    seed: int


def measure(
    bench: Bench, trials: Sequence[Trial], on_batch: Callable[[int], None]
) -> list[float | None]:
    """Measure how far every trial takes the outputs from the original's.

    Parameters
    ----------
    on_batch : callable
        Told the number of samples after every batch.

    Returns
    -------
    list of float or None
        For each trial the divergence: mean over samples, sum over outputs. None where no gradient
        gets through to its layers, or where it is not finite.
    """
    part = _part(bench)
    facts = Facts(bench.probe.shapes, {layer.y: layer for layer in bench.layers})
    changed = dict.fromkeys(y for trial in trials for y in trial.outputs)
    open_ = reached(part, facts, [y for y in changed if _is_plain(bench, y)])
    tried = [i for i, trial in enumerate(trials) if open_.issuperset(trial.outputs)]
    result: list[float | None] = [None] * len(trials)
    if not tried:
        return result
    batch = bench.fixed or min(MOST, batch_size(bench.probe, _alive(part, bench), None))
    weights = _weights(bench, part, batch)
    # Constants have to fit into a model; each lot takes a pass of its own.
    chunks = list(in_chunks(tried, lambda i: 4 * trials[i].entries, LARGEST))
    for chunk in chunks:
        model, felt = _instrumented(bench, part, facts, [trials[i] for i in chunk], weights)
        totals = np.zeros(len(chunk))
        tell = on_batch if chunk is chunks[-1] else _nobody
        for own, outputs in _runs(bench, model, felt, batch, tell):
            totals += [np.square(outputs[name][:own], dtype=np.float64).sum() for name in felt]
        for index, total in zip(chunk, totals.tolist(), strict=True):
            result[index] = total if np.isfinite(total) else None
    return result


def _nobody(count: int) -> None:
    """Take notice of nothing."""


def obstacles(bench: Bench) -> str:
    """Name what may keep gradients from reaching some layers."""
    part = _part(bench)
    if opset(part) < OLDEST:
        return f"operator set {opset(part)}"
    ops = {node.op_type for node in part.graph.node} - GRADIENTS.keys() - SIZES
    return ", ".join(sorted(ops)) or "some operators with their attributes"


def _part(bench: Bench) -> onnx.ModelProto:
    fed = {t.name: bench.probe.dtypes[t.name] for t in bench.model.graph.inputs}
    return bench.model.part(fed, [metric.output for metric in bench.metrics])


def _is_plain(bench: Bench, tensor: str) -> bool:
    """Whether a tensor has the type that rules write, and samples along its first axis."""
    leading = bench.probe.shapes[tensor][:1]
    grows = bench.fixed is not None or 0 in bench.probe.dynamic.get(tensor, ())
    samples_first = bool(leading) and leading[0] % _batch_seen(bench) == 0
    return samples_first and grows and bench.probe.dtypes[tensor] == np.float32


def _batch_seen(bench: Bench) -> int:
    """Return how many samples the shapes of the probe are of."""
    return bench.fixed or bench.probe.batch


def _alive(part: onnx.ModelProto, bench: Bench) -> list[str]:
    """List the tensors that a backward pass needs of a forward pass: all, to be safe."""
    made = (name for node in part.graph.node for name in node.output)
    return [name for name in made if name in bench.probe.shapes]


def _weights(bench: Bench, part: onnx.ModelProto, batch: int) -> dict[str, float]:
    """Return what to multiply directions of each output by, so that squares sum to a mean."""
    scales = _variances(bench, part, batch)
    for metric in bench.metrics:
        if metric.kind != "values":
            shape = bench.probe.shapes[metric.output]
            distributions = np.prod(shape) / shape[metric.axis] / _batch_seen(bench)
            scales[metric.output] = float(max(distributions * len(bench.samples), 1))
    return {name: float(1 / np.sqrt(scale)) for name, scale in scales.items()}


def _variances(bench: Bench, part: onnx.ModelProto, batch: int) -> dict[str, float]:
    """Return summed variances of outputs that are compared by values; 1 where nothing varies."""
    names = [metric.output for metric in bench.metrics if metric.kind == "values"]
    sums = {name: np.zeros(3) for name in names}
    for own, outputs in _runs(bench, part, names, batch, _nobody) if names else ():
        for name in names:
            x = own_samples(outputs[name], own, batch) if bench.fixed else outputs[name]
            x = x[np.isfinite(x)].astype(np.float64)
            sums[name] += [x.size, x.sum(), np.square(x).sum()]
    variances = {n: square - total**2 / max(count, 1) for n, (count, total, square) in sums.items()}
    return {name: variance if variance > 0 else 1.0 for name, variance in variances.items()}


def _instrumented(
    bench: Bench,
    part: onnx.ModelProto,
    facts: Facts,
    trials: Sequence[Trial],
    weights: Mapping[str, float],
) -> tuple[onnx.ModelProto, list[str]]:
    """Append directions, a backward pass, and what every trial makes of it, a number a sample."""
    out = onnx.ModelProto()
    out.CopyFrom(part)
    tape = Tape(out, facts.shapes, facts.layers)
    starts = {}
    for index, metric in enumerate(bench.metrics):
        signs = _signs(tape, metric.output, _noise_seed(bench.seed, index))
        direction = metric.direction(tape, signs)
        starts[metric.output] = tape.op("Mul", direction, tape.floats(weights[metric.output]))
    changed = list(dict.fromkeys(y for trial in trials for y in trial.outputs))
    gradients = backpropagate(tape, part.graph.node, starts, changed)
    makers = {node.output[0]: node for node in part.graph.node}
    rows = tape.op("Concat", SAMPLES, tape.ints([-1]), axis=0)
    felt = []
    for trial in trials:
        terms = []
        for change in trial.changes():
            y = change.linear.y
            product = tape.op("Mul", _difference(tape, makers[y], change), gradients[y])
            terms.append(tape.total(tape.op("Reshape", product, rows), [1], keep=False))
        felt.append(tape.sum(terms))
    del out.graph.output[:]
    out.graph.output.extend(onnx.ValueInfoProto(name=name) for name in felt)
    counts = onnx.helper.make_tensor_value_info(SAMPLES, onnx.TensorProto.INT64, [1])
    out.graph.input.append(counts)
    return out, felt


def _signs(tape: Tape, x: str, seed: int) -> str:
    """Write random signs of a tensor's shape."""
    if tape.opset < 22:
        return tape.op("Sign", tape.op("RandomNormalLike", x, seed=float(seed)))
    # Of operators that draw numbers onnxruntime has no newer kernels but this one's, which it takes
    # out unless what it is fed is computed from inputs.
    ones = tape.op("Cast", tape.op("Equal", x, x), to=onnx.TensorProto.FLOAT)
    training = tape.op("Cast", tape.op("Squeeze", SAMPLES), to=onnx.TensorProto.BOOL)
    twos = tape.op("Dropout", ones, tape.floats(0.5), training, seed=seed)
    return tape.op("Sub", twos, tape.floats(1))


def _noise_seed(seed: int, index: int) -> int:
    """Return a seed that float32 holds: not 0, which onnxruntime takes for 1."""
    return int(np.random.default_rng((seed, index)).integers(1, 2**24))


def _difference(tape: Tape, node: onnx.NodeProto, change: Change) -> str:
    """Write a layer again, with the change of its constants: the change of its output."""
    inputs = [node.input[0], tape.floats(change.weight)]
    bias = None if change.bias is None else tape.floats(change.bias)
    if bias is not None and node.op_type != "MatMul":
        inputs.append(bias)
    y = tape.op(node.op_type, *inputs, **attributes(node))
    return tape.op("Add", y, bias) if bias is not None and node.op_type == "MatMul" else y


def _runs(
    bench: Bench,
    model: onnx.ModelProto,
    names: Sequence[str],
    batch: int,
    on_batch: Callable[[int], None],
) -> Iterable[tuple[int, dict[str, np.ndarray]]]:
    """Run a model on all samples; yield how many of a batch's samples are real, and outputs."""
    active = session(model, bench.providers)
    counted = any(value.name == SAMPLES for value in model.graph.input)
    left = len(bench.samples)
    for feed in bench.samples.batches(batch, pad=bench.fixed is not None):
        own = min(left, batch)
        count = {SAMPLES: np.array([batch if bench.fixed else own])} if counted else {}
        yield own, run(active, names, {**feed, **count})
        left -= own
        on_batch(own)
