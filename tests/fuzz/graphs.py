"""Random models: what is drawn how often, where they begin and how they end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from fuzz.grower import CPU, Grower, UnfitError
from fuzz.indexing import INDEXING, gather_by_data
from fuzz.moving import MOVING, shuffle, tokens
from fuzz.perchannel import PER_CHANNEL, bottleneck, gate, group_norm
from fuzz.pointwise import POINTWISE, QUANTISING, residual_block
from fuzz.weighted import WEIGHTED, attention, conv

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.session import run, session

OPERATORS = {**WEIGHTED, **MOVING, **POINTWISE, **PER_CHANNEL, **INDEXING, **QUANTISING}
"""Those that quantise are not drawn at random: rounding turns small differences into large ones."""
BLOCKS = (
    residual_block,
    residual_block,
    gate,
    group_norm,
    shuffle,
    tokens,
    attention,
    bottleneck,
    bottleneck,
)
COMMON = ("Relu", "Add", "Mul", "Sub", "BatchNormalization", "Concat", "Max", "Where", "Div")
FAMILIES = (
    (24, [*WEIGHTED.values(), conv, conv]),
    (20, list(MOVING.values())),
    (10, [OPERATORS[op] for op in COMMON]),
    (10, list(POINTWISE.values())),
    (14, list(PER_CHANNEL.values())),
    (14, BLOCKS),
    (8, [*INDEXING.values(), gather_by_data]),
)


@dataclass(frozen=True)
class Drawn:
    """A model, and a sample of its inputs."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    open_batch: bool


def random_model(seed: int, steps: int | None = None) -> Drawn:
    """Draw a model that runs.

    Parameters
    ----------
    seed : int
    steps : int, optional
        Operators or blocks at most, beside those that begin and end it; up to 10 by default. Those
        of fewer steps are the first ones of more, so that a failure shrinks.
    """
    g = Grower(random.Random(seed))
    pick = g.pick
    for _ in range(pick.choice([1, 1, 1, 2])):
        begin(g)
    weights = [weight for weight, _ in FAMILIES]
    some = pick.randrange(1, 11)
    steps = some if steps is None else steps
    for _ in range(steps):
        family = pick.choices([makers for _, makers in FAMILIES], weights)[0]
        for _ in range(4):
            if g.attempt(pick.choice(family)):
                break
    outputs = _end(g)
    feeds = {value.name: g.values[value.name] for value in g.inputs}
    model = g.model(outputs)
    batches = (1, 3) if g.open_batch else (g.batch,)
    if not all(runs(model, with_batch(feeds, batch)) for batch in batches):
        _close_batch(g)
        model = g.model(outputs)
        if not runs(model, feeds):  # nodes ran, but inferred shapes are others
            return random_model(seed, steps - 1)
    return Drawn(model, feeds, g.open_batch)


def with_batch(
    feeds: Mapping[str, np.ndarray], batch: int, more: Mapping[str, Sequence[int]] | None = None
) -> dict[str, np.ndarray]:
    """Other random inputs of the same shapes but for their leading size.

    Parameters
    ----------
    more : mapping of str to sequence of int, optional
        What to add to all other sizes, by input.
    """
    rng = np.random.default_rng(batch)
    drawn = {}
    for name, value in feeds.items():
        if value.dtype.kind == "i":  # places, the same for all samples
            drawn[name] = value
            continue
        rest = np.add(value.shape[1:], (more or {}).get(name, 0)).astype(int)
        drawn[name] = rng.standard_normal((batch, *rest)).astype(value.dtype)
    return drawn


def runs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> bool:
    try:
        run(session(model, CPU), None, feeds)
    except ReapError:
        return False
    return True


def _close_batch(g: Grower) -> None:
    """Fix the leading size, which something inside turned out to depend on."""
    g.open_batch = False
    for value in g.inputs:
        value.type.tensor_type.shape.dim[0].dim_value = g.batch


def begin(g: Grower) -> None:
    """An input, and nearly always a layer that makes channels of it."""
    rank = g.pick.choice([4, 4, 4, 4, 3, 3, 5, 2])
    channels = g.pick.choice([1, 2, 3, 3, 4])
    size = [g.pick.choice([2, 3, 4, 4, 6]) for _ in range(rank - 2)]
    names: list[int | str] = [f"s{i}" for i in range(len(size))] if g.chance(0.1) else [*size]
    lead = "n" if g.open_batch else g.batch
    x = g.input([lead, channels, *names], _sample(g, g.batch, channels, *size))
    if g.chance(0.95):
        outputs = g.pick.choice([4, 4, 6, 8, 8, 9, 12, 5])
        bias = g.chance(0.7) or g.opset < 11
        if rank == 2:
            g("Gemm", x, g.weight(channels, outputs), *([g.weight(outputs)] if bias else []))
        else:
            kernel = [g.pick.choice([1, 3]) for _ in size]
            w = g.weight(outputs, channels, *kernel)
            pads = [k // 2 for k in kernel] * 2
            g("Conv", x, w, *([g.weight(outputs)] if bias else []), pads=pads)


def _sample(g: Grower, *shape: int) -> np.ndarray:
    return g.rng.standard_normal(shape).astype(np.float32)


def _end(g: Grower) -> list[str]:
    """Let most of what nobody reads be read by a layer; that makes the outputs."""
    ends = [n for n in g.unread() if g.values[n].dtype.kind in "fib"]
    read = [name for name in ends if not (len(ends) > 1 and g.chance(0.05))]  # or it is dead
    outputs = []
    for name in read:
        for _ in range(3):
            if g.chance(0.9) and g.attempt(lambda g, x=name: _read(g, x)):
                name = g.nodes[-1].output[0]
                break
        outputs.append(name)
    return outputs or [g.nodes[-1].output[0]] if g.nodes else [g("Relu", g.inputs[0].name)]


def _read(g: Grower, x: str) -> str:
    if g.values[x].dtype.kind != "f":
        x = g("Cast", x, to=1)
    shape = g.shape(x)
    form = g.pick.choice(["conv", "conv", "matmul", "pool"])
    if len(shape) < 2:
        raise UnfitError("no channels")
    if form == "conv" and 3 <= len(shape) <= 5:
        kernel = [1] * (len(shape) - 2)
        return g("Conv", x, g.weight(3, shape[1], *kernel), g.weight(3))
    if form == "pool" and 3 <= len(shape) <= 5:
        x = g("Flatten", g("GlobalAveragePool", x))
    elif len(shape) > 2 and g.chance(0.7):
        x = g("Flatten", x)
    return g("MatMul", x, g.weight(g.shape(x)[-1], 3))
