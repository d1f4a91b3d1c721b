"""Tuning all layers of a cut model together, after they were refitted."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import kept_positions
from onnx_reap.measure.autodiff.backward import stopped
from onnx_reap.measure.runner import batch_size
from onnx_reap.measure.sensitivity.divergence import Metric, metrics
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.prune.context import Run
from onnx_reap.prune.refit.blocks import blocks
from onnx_reap.prune.refit.descent import SAMPLES_PER_STEP
from onnx_reap.prune.refit.model_pair import ModelPair, linears_left, obstacle
from onnx_reap.prune.refit.network import Distance, Network
from onnx_reap.prune.refit.side_by_side import AT_ONCE
from onnx_reap.prune.refit.tuning import Schedule, Tuning

ACTIVATION_BYTES = 512 << 20
"""Bytes of activations of the batches that run at once, of which a backward pass needs most."""

OVERTIME = 1.1
"""Of the time for tuning, past which it ends: steps may take longer than the first ones did."""


@dataclass(frozen=True)
class NetworkFit:
    """What became of a network whose layers moved together."""

    passes: float  # Over the training samples
    schedule: Schedule
    before: Distance
    after: Distance
    nodes: tuple[str, ...]  # That moved
    left: tuple[str, ...]  # Layers that are as they were refitted
    moved: float = 0.0  # Mean error of the outputs as they are now, towards those from before


def tune_network(
    run: Run, pruned: Model, removed: Sequence[int], *, seconds: float, zeros_stay: bool
) -> tuple[NetworkFit | None, list[str]]:
    """Tune a cut model in place; return what came of it, and notes.

    Parameters
    ----------
    removed : sequence of int
        Units.
    seconds : float
        To take at most, where the settings don't tell the number of passes.
    """
    begin, why = perf_counter(), obstacle(run, pruned)
    network = None if why else _network(run, pruned, removed)
    if network is None or not network.values:
        why = why or "no gradient gets from behind a block to its layers"
    elif not math.isfinite(network.before.blocks):
        why = "activations of the cut model are not finite"
    if why is not None or network is None:
        return None, [f"--tune changed nothing: {why}"] if run.settings.tune else []
    tuning = Tuning(network, run.settings.seed, zeros_stay=zeros_stay)
    steps, notes = (run.settings.tune or 0) * tuning.steps_per_pass, list[str]()
    until = math.inf
    if run.settings.tune is None:
        steps, needed = tuning.affordable(seconds - (perf_counter() - begin))
        notes, until = _of_time(run, tuning, steps, needed), begin + OVERTIME * seconds
    if not steps:
        return None, notes
    with run.progress.stage("Tuning the network", tuning.work(steps)) as step:
        found = tuning.improve(steps, step, until)
    if found is None:
        back = "the network was not tuned: on the validation split nothing came nearer"
        return None, [*notes, back]
    parameters = network.parameters
    parameters.write(found.values)
    moved = parameters.nodes
    layers = [each.node for each in run.analysis.flow.linears]
    present = {pruned.keys[id(node)] for node in pruned.nodes}
    left = tuple(key for key in layers if key in present and key not in moved)
    return NetworkFit(found.passes, found.schedule, found.before, found.after, moved, left), notes


def _of_time(run: Run, tuning: Tuning, steps: int, needed: float) -> list[str]:
    """Say what more time would be for."""
    if steps >= tuning.enough:
        return []
    made = f"{steps} of {tuning.enough} steps were made" if steps else "it was left out"
    passes = -(-tuning.enough // tuning.steps_per_pass)
    bounds = "--time-limit" if run.settings.tune_time is None else "--tune-time"
    return [
        f"tuning the whole network takes {needed:.0f} s here; {made}: a longer {bounds}, or "
        f"--tune {passes}, may bring more"
    ]


def _network(run: Run, pruned: Model, removed: Sequence[int]) -> Network | None:
    """Prepare both models; None where nothing can be compared."""
    analysis, parts = run.analysis, run.samples.train_validation
    assert parts is not None
    kept = kept_positions(analysis.flow, removed)
    linears = linears_left(run, pruned, kept)
    made = [tensor.name for node in pruned.nodes for tensor in node.outputs]
    fitting = batch_size(analysis.probe, made, None, ACTIVATION_BYTES // AT_ONCE)
    batch = analysis.fixed_batch or min(fitting, SAMPLES_PER_STEP // AT_ONCE, len(parts[0]))
    pair = ModelPair(run, pruned, kept, batch)
    candidates = _behind_blocks(pair, {linear.node for linear in linears})
    parameters = pair.parameters(linears, candidates)
    facts, dtypes = pair.facts(linears), analysis.probe.dtypes
    inputs = {tensor.name: dtypes[tensor.name] for tensor in pruned.graph.inputs}
    lost = stopped(parameters.part(inputs, candidates), parameters.facts(facts), parameters.values)
    goals = [name for name in candidates if name not in lost]
    if not goals:
        return None
    scores = [each for each in _scores(run) if each.output in goals]
    together = max(SAMPLES_PER_STEP // batch, 1)
    return Network(pair, parameters, facts, goals, scores, batch, together)


def _behind_blocks(pair: ModelPair, layers: Collection[str]) -> list[str]:
    """List the tensors behind blocks of a few layers, and the outputs, of real numbers."""
    pruned, probe, frontier = pair.pruned, pair.probe, pair.frontier(pair.pruned)
    places = [i for i, node in enumerate(pruned.nodes) if pruned.keys[id(node)] in layers]
    found = [] if frontier.at(0) is None else [*blocks(frontier, places, len(pruned.nodes))]
    names = [name for block in found for name in block.after.tensors]
    names += [tensor.name for tensor in pruned.graph.outputs]
    made = {tensor.name for node in pruned.nodes for tensor in node.outputs}
    both = [name for name in dict.fromkeys(names) if name in made and name in probe.dtypes]
    return [name for name in both if is_float(probe.dtypes[name])]


def _scores(run: Run) -> list[Metric]:
    probe = run.analysis.probe
    found = metrics(run.analysis.model, probe.shapes, probe.dtypes, run.settings.metric)
    return [metric for metric in found if metric.has_classes]
