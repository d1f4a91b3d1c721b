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
from functools import partial

import numpy as np

from onnx_reap.graph.labels.kept import Kept
from onnx_reap.graph.labels.records import Linear
from onnx_reap.measure.activations.stream import Move, Store
from onnx_reap.measure.autodiff.backward import (
    SIZES,
    Facts,
    reached,
    with_errors,
    with_gradients,
)
from onnx_reap.measure.autodiff.table import GRADIENTS
from onnx_reap.prune.refit.block_training import Batches, BlockProblem, Training
from onnx_reap.prune.refit.blocks import Block, blocks
from onnx_reap.prune.refit.descent import SAMPLES_PER_STEP
from onnx_reap.prune.refit.model_pair import ModelPair
from onnx_reap.prune.refit.pace import Pace
from onnx_reap.prune.refit.parameters import Parameters
from onnx_reap.prune.refit.step_sizes import step_sizes

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class BlockFit:
    """What became of a block."""

    nodes: tuple[str, ...]  # Layers that were free to move
    # Squared error behind the block, relative to the variance there, on the validation split; equal
    # where moving would not have helped, and nothing was changed
    error_before: float
    error_after: float
    passes: float  # Over the samples that fit


def refit_blocks(
    pair: ModelPair, linears: Sequence[Linear], pace: Pace, on_node: Callable[[int], None]
) -> list[BlockFit]:
    """Refit a cut model in place.

    Parameters
    ----------
    linears : sequence of Linear
        Layers that are not recurrent, as they are after the cut.
    pace : Pace
        How many passes blocks make over the samples that fit.
    """
    original, pruned = pair.original, pair.pruned
    frontier = pair.frontier(pruned)
    start = frontier.at(0)
    if start is None:
        return []
    keys = [pruned.keys[id(node)] for node in pruned.nodes]
    place = {key: i for i, key in enumerate(keys)}
    places = sorted(place[layer.node] for layer in linears)
    known = GRADIENTS.keys() | SIZES
    opaque = {i for i, node in enumerate(pruned.nodes) if node.op not in known}
    found = list(blocks(frontier, places, len(place), opaque))
    parameters = pair.parameters(linears, [name for each in found for name in each.after.tensors])
    facts, done = pair.facts(linears), []
    by_node = pair.costs(linears)
    inside = [{*keys[block.first : block.end]} for block in found]
    costs = [sum(by_node[key] for key in nodes if key in by_node) for nodes in inside]
    with pair.stream(apart=True) as before, pair.stream(apart=True) as after:
        before.advance(original, _with_branches(pair, Block(0, 0, start)))
        after.advance(pruned, start)
        read = before.seconds + after.seconds
        for number, block in enumerate(found):
            if pace.is_hopeless:
                break
            before.advance(original, _with_branches(pair, block))
            passed, later = sum(costs[: number + 1]), sum(costs[number + 1 :])
            share = costs[number] / max(costs[number] + later, 1)
            walk = (before.seconds + after.seconds - read) * later / max(passed, 1)
            with closing(_AsCut(before.store, block.after.tensors, pair.kept)) as wanted:
                own, passes = parameters.of(inside[number]), partial(pace.passes, share, walk=walk)
                fit = _fit(pair, own, after.store, wanted, facts, passes)
            done += [] if fit is None else [fit]
            after.advance(pruned, block.after)
            on_node(block.end - block.first)
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


def _fit(
    pair: ModelPair,
    parameters: Parameters,
    given: Batches,
    wanted: Batches,
    facts: Facts,
    passes: Callable[[Callable[[], float]], float],
) -> BlockFit | None:
    """Refit the layers of one block; None if nothing there can move or has to.

    Parameters
    ----------
    passes : callable
        Tells how many to make, given what times one.
    """
    first = given[0]
    floats = [name for name, x in wanted[0].items() if x.dtype == np.float32]
    goals = _weights(wanted, [name for name in floats if name not in first])
    values = parameters.values
    if not goals or not values:
        return None
    inputs = {name: array.dtype for name, array in first.items()}
    part, facts = parameters.part(inputs, list(goals)), parameters.facts(facts)
    moving = parameters.only(reached(part, facts, list(values)))
    if not moving.every:
        return None
    start = moving.values
    trainer = with_gradients(part, facts, goals, sorted(start))
    comparison = with_errors(part, facts, goals)
    together = max(SAMPLES_PER_STEP // pair.batch, 1)
    problem = BlockProblem(given, wanted, -(-pair.fit_samples // pair.batch), together)
    fixed = {name: array for name, array in values.items() if name not in start}
    training = Training(trainer, comparison, fixed, problem, pair.run.analysis.providers)
    sizes = step_sizes(moving, first, together, pair.run.analysis.providers)
    count = passes(partial(training.seconds, start, sizes))
    if not count:
        return None
    rng = np.random.default_rng(pair.run.settings.seed)
    found, before, after = training.improve(start, sizes, count, rng, moving.as_stored)
    if after < before:  # else they keep all their digits
        moving.write(found)
    return BlockFit(moving.nodes, before, after, count)


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
