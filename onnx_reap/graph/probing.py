"""The feeds that tell what depends on data and sizes."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.batches import Probed
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.extract import extract
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, run, session

BATCH = 32
"""Samples that are run at once."""

FEW = (1, 2, 3)
"""Batch sizes that tell what follows from sizes."""


def few_and_all(probed: Probed) -> tuple[Sequence[Feed], Iterator[Feed]]:
    """Return a few batches of different size, and all samples."""
    _, fixed_batch, samples = probed
    batches = FEW if fixed_batch is None else (fixed_batch,)
    few = [next(iter(samples.batches(size, pad=True))) for size in batches]
    every = samples.batches(fixed_batch or BATCH, pad=fixed_batch is not None)
    return samples.extremes() if samples.alone else few, every


def computed(
    model: LightModel, tensors: Collection[str], feeds: Iterable[Feed], providers: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Run the part of a model that computes some tensors; yield these for every feed."""
    names = sorted(tensors)
    part = replace(model, proto=extract(model.proto, {}, names))
    read = {value.name for value in part.graph.input}
    active = session(part, providers, optimize=False)
    for feed in feeds:
        yield run(active, names, {name: x for name, x in feed.items() if name in read})


def follows_from_sizes(tensor: gs.Tensor) -> bool:
    """Whether a tensor is computed from constants and sizes of tensors alone."""
    todo, seen = [tensor], set[int]()
    while todo:
        each = todo.pop()
        if isinstance(each, gs.Constant) or id(each) in seen:
            continue
        seen.add(id(each))
        if not each.inputs:
            return False
        if Trait.MEASURES not in traits_of(each.inputs[0].op):
            todo += each.inputs[0].inputs
    return True
