"""One run of the model: the shapes that tensors really have, and the integers they hold.

Static shape inference gives up on many exports; a run never does. A model with a dynamic batch is
run at two batch sizes, which tells the dimensions that depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_reap.graph.model import STANDARD_DOMAINS, Model, captured_tensors
from onnx_reap.runtime import Feed, extract, run, session, with_outputs

SMALL = 4096  # values of tensors up to this many elements are kept: shapes, indices, scales

# Operators whose result on constants is not the same every time, or must stay visible.
RANDOM = frozenset(
    (
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    )
)
_NEVER_FOLDED = RANDOM | {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class Probe:
    """What a run of the model showed.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Shape of every tensor, constants included.
    dtypes : mapping of str to numpy.dtype
    values : mapping of str to numpy.ndarray
        Values of small tensors that nodes compute.
    batch : int
        Samples in the run.
    dynamic : mapping of str to frozenset of int
        Axes whose size depends on the batch, for tensors that have any.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]
    values: Mapping[str, np.ndarray]
    batch: int
    dynamic: Mapping[str, frozenset[int]] = field(default_factory=dict)


def fold_constants(model: Model, providers: Sequence[str]) -> None:
    """Replace every tensor that depends on constants alone by its value."""
    computed = _constant_tensors(model)
    wanted = [
        t.name
        for node in model.nodes
        if not all(t.name in computed for t in node.outputs if t.name)
        for t in node.inputs
        if t.name in computed
    ]
    outputs = {t.name for t in model.graph.outputs} | set(captured_tensors(model.nodes))
    wanted = [name for name in dict.fromkeys(wanted) if name not in outputs]
    if not wanted:
        return
    part = extract(model.to_proto(), {}, wanted)
    model.set_constants(run(session(part, providers, optimize=False), wanted, {}))


def probe(model: Model, feeds: Sequence[Feed], providers: Sequence[str]) -> Probe:
    """Run the model once per feed, keeping every tensor's shape.

    Parameters
    ----------
    feeds : sequence of feeds
        One, or two that differ in their batch size alone.
    """
    names = [t.name for node in model.nodes for t in node.outputs if t.name]
    names += [t.name for t in model.graph.inputs]
    active = session(with_outputs(model.to_proto(), names), providers, optimize=False)
    first, *others = (_shapes_and_values(active, names, feed) for feed in feeds)
    shapes, dtypes, values = first
    dynamic = {
        name: frozenset(axis for axis, size in enumerate(shape) if size != other[0][name][axis])
        for other in others
        for name, shape in shapes.items()
        if len(other[0][name]) == len(shape) and other[0][name] != shape
    }
    for name, constant in model.constants().items():
        shapes[name] = tuple(int(size) for size in constant.shape)
    return Probe(shapes, dtypes, values, _samples(model, feeds[0], shapes, dynamic), dynamic)


def _samples(
    model: Model,
    feed: Feed,
    shapes: Mapping[str, tuple[int, ...]],
    dynamic: Mapping[str, frozenset[int]],
) -> int:
    """Return the leading size of the first input, if an output grows with it or has it too; else 1.

    Detectors, for instance, take a single image without a batch axis; text recognisers return the
    batch as the second axis.
    """
    lead = next((array.shape[0] for array in feed.values() if array.ndim), 1)
    names = [tensor.name for tensor in model.graph.outputs]
    grows = any(dynamic.get(name) for name in names)
    return int(lead) if grows or any(shapes.get(name, ())[:1] == (lead,) for name in names) else 1


def _shapes_and_values(
    active: object, names: list[str], feed: Feed
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype], dict[str, np.ndarray]]:
    tensors = {n: v for n, v in run(active, names, feed).items() if isinstance(v, np.ndarray)}
    shapes = {name: tuple(array.shape) for name, array in tensors.items()}
    dtypes = {name: array.dtype for name, array in tensors.items()}
    values = {name: array for name, array in tensors.items() if array.size <= SMALL}
    return shapes, dtypes, values


def _constant_tensors(model: Model) -> set[str]:
    constant = set(model.constants())
    computed: set[str] = set()
    for node in model.nodes:
        inputs = [t.name for t in node.inputs if t.name]
        foldable = (
            node.domain in STANDARD_DOMAINS
            and node.op not in _NEVER_FOLDED
            and not captured_tensors([node])
            and not any(hasattr(value, "nodes") for value in node.attrs.values())
        )
        if foldable and all(name in constant or name in computed for name in inputs):
            computed |= {t.name for t in node.outputs if t.name}
    return computed
