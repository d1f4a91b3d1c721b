"""Block by block, fit what the pruned model gives to what the original gave.

A refit of one layer at a time leaves the layer before it as it was. Here the layers of a block move
together, by gradient, towards the same target: the original's activations behind the block, from
what the pruned model feeds into it. No label and no loss of the whole network is involved.

References
----------
Y. Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR
2021, reconstruct blocks in this way after quantisation.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.stream import Move, Store
from onnx_reap.measure.autodiff.backward import SIZES, Facts, reached, with_gradients
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.onnxio.float32 import to_float32
from onnx_reap.onnxio.session import run, session
from onnx_reap.prune.refit.block_training import Batches, BlockProblem, Training
from onnx_reap.prune.refit.blocks import Block, blocks
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.order import affected_tensors

Batch = Mapping[str, np.ndarray]

STEP = 16  # samples a run at most; a step takes as many twice


@dataclass(frozen=True)
class BlockFit:
    """What became of a block."""

    nodes: tuple[str, ...]  # Layers that were free to move
    # Squared error behind the block, relative to the variance there, on the validation split; equal
    # where moving would not have helped, and nothing was changed
    error_before: float
    error_after: float


def refit_blocks(
    pair: ModelPair,
    linears: Sequence[Linear],
    layers: Sequence[Linear],
    passes: int,
    on_node: Callable[[int], None],
) -> list[BlockFit]:
    """Refit a cut model in place.

    Parameters
    ----------
    linears : sequence of Linear
        All layers, as they are after the cut: gradients pass through them.
    layers : sequence of Linear
        Those that may change; their constants are their own.
    passes : int
        Over the samples that fit.
    """
    original, pruned = pair.original, pair.pruned
    frontier = pair.frontier(pruned)
    start = frontier.at(0)
    if start is None:
        return []
    affected = affected_tensors(pruned, pair.kept.keys())  # budgets count the biases behind these
    bare = [layer for layer in layers if layer.bias is None and layer.x in affected]
    given_biases = [_give_bias(pruned, layer) for layer in bare if layer.op != "MatMul"]
    place = {pruned.keys[id(node)]: i for i, node in enumerate(pruned.nodes)}
    places = sorted(place[layer.node] for layer in layers)
    facts = _facts(pair, linears)
    done = []
    with pair.stream() as before, pair.stream() as after:
        before.advance(original, _with_branches(pair, Block(0, 0, start)))
        after.advance(pruned, start)
        known = GRADIENTS.keys() | SIZES
        opaque = {i for i, node in enumerate(pruned.nodes) if node.op not in known}
        for block in list(blocks(frontier, places, len(place), opaque)):
            nodes = range(block.first, block.end)
            inside = [layer for layer in layers if place[layer.node] in nodes]
            before.advance(original, _with_branches(pair, block))
            with closing(_AsCut(before.store, block.after.tensors, pair.kept)) as wanted:
                found = _fit(pair, inside, after.store, wanted, facts, passes)
            done += [] if found is None else [found]
            after.advance(pruned, block.after)
            on_node(len(nodes))
    for bias in given_biases:
        bias.take_back_unless_used()
    return done


class _AsCut:
    """Batches of the original's activations, without the channels that went."""

    def __init__(self, store: Store, names: Sequence[str], kept: Kept) -> None:
        self._store, self._names = store, names
        self._cut = Store(on_disk=store.on_disk)
        cut = [name for name in names if name in kept]
        for batch in store:
            taken = {name: np.take(batch[name], kept[name][1], kept[name][0]) for name in cut}
            self._cut.append(taken)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        found = self._store[index] | self._cut[index]
        return {name: found[name] for name in self._names}

    def close(self) -> None:
        """Free what was cut."""
        self._cut.close()


def _with_branches(pair: ModelPair, block: Block) -> Move:
    """Hold in the original also what branches read that are no longer in the pruned model."""
    original, pruned = pair.original, pair.pruned
    place = {original.keys[id(node)]: i for i, node in enumerate(original.nodes)}
    behind = (place.get(pruned.keys[id(node)]) for node in pruned.nodes[block.end :])
    first = next((spot for spot in behind if spot is not None), len(place))
    whole = pair.frontier(original).at(first)
    tensors = dict.fromkeys([*block.after.tensors, *(whole.tensors if whole else ())])
    return Move(list(tensors), max(block.after.size, whole.size if whole else 0))


@dataclass(frozen=True)
class _Bias:
    """A bias that a layer was given, and the inputs that it had."""

    node: gs.Node
    before: list[gs.Tensor]

    def take_back_unless_used(self) -> None:
        """Give the layer its old inputs where the bias did not move."""
        if not self.node.inputs[2].values.any():
            self.node.inputs = self.before


def _give_bias(pruned: Model, layer: Linear) -> _Bias:
    node = pruned.node(layer.node)
    before, weight = list(node.inputs), node.inputs[1].values
    zeros = np.zeros(weight.shape[layer.weight_out], weight.dtype)
    node.inputs = [*before[:2], gs.Constant(pruned.unused(f"{layer.y}_bias"), zeros)]
    return _Bias(node, before)


def _parameters(pruned: Model, layer: Linear) -> list[gs.Constant]:
    """List a layer's weight, and its bias if it has one number per output."""
    weight, *bias = pruned.node(layer.node).inputs[1:3]
    outputs = weight.shape[layer.weight_out]
    return [weight, *(b for b in bias if b.name and tuple(b.shape[-1:]) == (outputs,))]


def _facts(pair: ModelPair, linears: Sequence[Linear]) -> Facts:
    """Tell shapes, also those in front of biases that a refit added behind MatMuls, and layers."""
    shapes, layers = dict(pair.probe.shapes), {}
    varying = set(pair.run.analysis.varying)
    for layer in linears:
        result = pair.pruned.node(layer.node).outputs[0].name
        shapes[result] = shapes[layer.y]
        varying |= {result} if layer.y in varying else set()
        layers[result] = layer
    return Facts(shapes, layers, varying)


def _fit(
    pair: ModelPair,
    layers: Sequence[Linear],
    given: Batches,
    wanted: Batches,
    facts: Facts,
    passes: int,
) -> BlockFit | None:
    """Refit the layers of one block; None if nothing there can move or has to."""
    pruned, first = pair.pruned, given[0]
    floats = [name for name, x in wanted[0].items() if x.dtype == np.float32]
    goals = _weights(wanted, [name for name in floats if name not in first])
    constants = {t.name: t for layer in layers for t in _parameters(pruned, layer)}
    values = {name: to_float32(constant.values) for name, constant in constants.items()}
    if not goals or not values:
        return None
    fed = {name: array.dtype for name, array in {**first, **values}.items()}
    part = pruned.part(fed, list(goals))
    free = sorted(reached(part, facts, list(values)))
    if not free:
        return None
    trainer = with_gradients(part, facts, goals, free)
    fitting, together = pair.fit_samples // pair.batch, max(2 * STEP // pair.batch, 1)
    problem = BlockProblem(given, wanted, fitting, passes, together)
    fixed = {name: array for name, array in values.items() if name not in free}
    training = Training(trainer, fixed, problem, pair.run.analysis.providers)
    start = {name: values[name] for name in free}
    nodes = tuple(layer.node for layer in layers if pruned.node(layer.node).inputs[1].name in free)
    scales = _scales(pair, layers, first)
    stored = {name: constants[name].values.dtype for name in free}
    rng = np.random.default_rng(pair.run.settings.seed)
    found, before, after = training.improve(start, scales, rng, stored)
    if after < before:  # else they keep all their digits
        for name in free:
            constants[name].values = found[name].astype(stored[name])
    return BlockFit(nodes, before, after)


def _weights(wanted: Batches, names: Sequence[str]) -> dict[str, float]:
    """Weight squared errors so that a batch's mean is relative to the variance, where it varies."""
    variances: dict[str, list[float]] = {name: [] for name in names}
    sizes = {name: wanted[0][name].size for name in names}
    with np.errstate(invalid="ignore"):  # activations may be infinite
        for index in range(len(wanted)):
            batch = wanted[index]
            for name in names:
                variances[name].append(float(np.var(batch[name], dtype=np.float64)))
        means = {name: float(np.mean(each)) for name, each in variances.items()}
    return {
        name: 1 / (variance * sizes[name])
        for name, variance in means.items()
        if np.finfo(np.float32).tiny < variance < np.inf
    }


def _scales(pair: ModelPair, layers: Sequence[Linear], given: Batch) -> dict[str, float]:
    """Return what a unit step is: the size of a weight, and for biases that of the results."""
    pruned = pair.pruned
    outputs = [pruned.node(layer.node).outputs[0].name for layer in layers]
    part = pruned.part({name: x.dtype for name, x in given.items()}, outputs)
    active = session(part, pair.run.analysis.providers)
    fed = [value.name for value in active.get_inputs()]
    results = run(active, outputs, {name: given[name] for name in fed})
    scales = {}
    for layer, output in zip(layers, outputs, strict=True):
        weight, *bias = _parameters(pruned, layer)
        scales[weight.name] = _size(weight.values)
        scales |= {constant.name: _size(results[output]) for constant in bias}
    return scales


def _size(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
