"""One run of the model: the shapes that tensors really have, and the integers they hold.

Static shape inference gives up on many exports; a run never does. A model with a dynamic batch is
run at two batch sizes, which tells the dimensions that depend on it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import captured_tensors
from onnx_reap.graph.ir.recurrent import add_projections
from onnx_reap.graph.rules.traits import NO_TRAITS, Trait, traits_of
from onnx_reap.onnxio.dtypes import is_float, is_integer_or_bool, to_numpy
from onnx_reap.onnxio.float32 import in_float32
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.session import Feed, run, session

SMALL = 4096  # values of tensors up to this many elements are kept: shapes, indices, scales


@dataclass(frozen=True)
class Probe:
    """What a run of the model showed."""

    shapes: Mapping[str, tuple[int, ...]]  # Shape of every tensor, constants included
    dtypes: Mapping[str, np.dtype]  # As they were in the run
    values: Mapping[str, np.ndarray]  # Values of small tensors that nodes compute
    batch: int  # Samples in the run
    # Axes whose size depends on the batch, for tensors that have any
    dynamic: Mapping[str, frozenset[int]] = field(default_factory=dict)
    # Types in the model as given, as far as they are known; empty where the run had the same
    written: Mapping[str, np.dtype] = field(default_factory=dict)

    def type_as_given(self, tensor: str) -> np.dtype | None:
        """Return a tensor's type in the model as given; None where onnx can't infer it."""
        return self.written.get(tensor) if self.written else self.dtypes[tensor]


def fold_constants(model: Model, providers: Sequence[str]) -> None:
    """Replace tensors that depend on constants alone by their values.

    What is larger than all that it is made of, an expanded scalar for instance, stays computed
    unless it is small or a layer's weight. So do sequences. Of the tensor that a CastLike reads
    second only the type matters.
    """
    types = _types_cast_to(model)
    behind = _constants_behind(model, types)
    types = {name: dtype for name, dtype in types.items() if name not in behind}
    likes = {name: np.zeros(1, dtype) for name, dtype in types.items()}
    sizes = {name: constant.values.nbytes for name, constant in model.constants().items()}
    layers = Trait.WEIGHTED | Trait.RECURRENT
    weights = {t.name for node in model.nodes if _traits(node) & layers for t in node.inputs}
    values: dict[str, np.ndarray] = {}
    while new := [name for name in _read(model, behind) if name not in values]:
        part = model.part_as_given(types, new)
        read = {value.name for value in part.graph.input}
        feed = {name: like for name, like in likes.items() if name in read}
        found = _folded(part, new, feed, model, providers)
        for name in new:
            value, limit = found.get(name), sum(sizes[source] for source in behind[name])
            if isinstance(value, np.ndarray) and (
                value.size <= SMALL or name in weights or value.nbytes <= limit
            ):
                values[name] = value
            else:
                del behind[name]
    model.set_constants(values)
    model.unshare_parameters()


def _folded(
    part: LightModel, names: Sequence[str], feed: Feed, model: Model, providers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Compute tensors in their own types, or in float32 where onnxruntime can't.

    Those whose own type is unknown are left out then.
    """
    try:
        return run(session(part, providers, optimize=False), names, feed)
    except ReapError:
        if not model.types:
            raise
    part32 = in_float32(part, model.types)
    values = run(session(part32, providers, optimize=False), names, feed)
    types = _dtypes(part)
    return {n: v.astype(types[n]) for n, v in values.items() if n in types}


def _dtypes(model: LightModel) -> dict[str, np.dtype]:
    """Return the element types of tensors, as far as onnx knows them."""
    kinds = {name: kind.tensor_type.elem_type for name, kind in model.inferred_types().items()}
    return {name: to_numpy(kind) for name, kind in kinds.items() if kind}


def _types_cast_to(model: Model) -> dict[str, np.dtype]:
    """Return the types of tensors that are no constants and whose type a CastLike reads."""
    likes = [node.inputs[1] for node in model.nodes if _is_cast_like(node)]
    names = {t.name for t in likes if not isinstance(t, gs.Constant)}
    if not names:
        return {}
    known = _dtypes(model.to_light())
    return {n: t for n, t in known.items() if n in names and (is_integer_or_bool(t) or is_float(t))}


def _is_cast_like(node: gs.Node) -> bool:
    return node.op == "CastLike" and node.domain in STANDARD_DOMAINS


def _traits(node: gs.Node) -> Trait:
    """Return a node's traits: none if it is of another domain, by whatever name."""
    return traits_of(node.op) if node.domain in STANDARD_DOMAINS else NO_TRAITS


def _read(model: Model, computed: Collection[str]) -> list[str]:
    """Return the computed tensors that other nodes read, but for those that must keep a maker."""
    read = [
        t.name
        for node in model.nodes
        if not all(t.name in computed for t in node.outputs if t.name)
        for t in node.inputs
        if t.name in computed
    ]
    outputs = {t.name for t in model.graph.outputs} | set(captured_tensors(model.nodes))
    return [name for name in dict.fromkeys(read) if name not in outputs]


def probe(
    model: Model, feeds: Sequence[Feed], providers: Sequence[str], batch: int | None = None
) -> Probe:
    """Run the model once per feed, keeping every tensor's shape.

    Parameters
    ----------
    feeds : sequence of feeds
        One, or two that differ in their batch size alone, or in whatever sizes a model leaves open.
    batch : int, optional
        Samples in the first feed; as many as its first axis has, if the model does anything with
        each, by default.
    """
    names = [t.name for node in model.nodes for t in node.outputs if t.name]
    names += [t.name for t in model.graph.inputs]
    active = session(model.to_run(), providers, outputs=names, optimize=False)
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
    written = _dtypes(model.to_light()) if model.types else {}
    nodes = {model.keys[id(node)]: node for node in model.nodes}
    add_projections(nodes, shapes, dtypes, dynamic)
    samples = batch or _samples(model, feeds[0], shapes, dynamic)
    return Probe(shapes, dtypes, values, samples, dynamic, written)


def _samples(
    model: Model,
    feed: Feed,
    shapes: Mapping[str, tuple[int, ...]],
    dynamic: Mapping[str, frozenset[int]],
) -> int:
    """Return the leading size of the first input, if an output or a layer has it too; else 1.

    Detectors, for instance, take a single image without a batch axis; text recognisers return the
    batch as the second axis.
    """
    lead = next((array.shape[0] for array in feed.values() if array.ndim), 1)
    names = [tensor.name for tensor in model.graph.outputs]
    grows = any(dynamic.get(name) for name in names)
    layers = (node for node in model.nodes if Trait.WEIGHTED in _traits(node))
    # Of which no output need tell.
    batched = any(0 in dynamic.get(t.name, ()) for layer in layers for t in layer.outputs)
    kept = any(shapes.get(name, ())[:1] == (lead,) for name in names)
    return int(lead) if grows or batched or kept else 1


def _shapes_and_values(
    active: object, names: list[str], feed: Feed
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.dtype], dict[str, np.ndarray]]:
    tensors = {n: v for n, v in run(active, names, feed).items() if isinstance(v, np.ndarray)}
    shapes = {name: tuple(array.shape) for name, array in tensors.items()}
    dtypes = {name: array.dtype for name, array in tensors.items()}
    values = {name: array for name, array in tensors.items() if array.size <= SMALL}
    return shapes, dtypes, values


def _constants_behind(model: Model, types: Mapping[str, np.dtype]) -> dict[str, frozenset[str]]:
    """Return the constants that each tensor is computed from, if it is from constants alone.

    Parameters
    ----------
    types : mapping of str to numpy.dtype
        Types of tensors of which a CastLike needs no more.
    """
    behind = {name: frozenset([name]) for name in model.constants()}
    given = set(behind)
    for node in model.nodes:
        inputs = [t.name for t in node.inputs if t.name]
        if _is_cast_like(node) and inputs[1] in types.keys() - behind.keys():
            del inputs[1]
        foldable = (
            node.domain in STANDARD_DOMAINS
            and not traits_of(node.op) & (Trait.RANDOM | Trait.QUANTISES)
            and not captured_tensors([node])
            and not model.origin.is_joint(node)
            and not any(hasattr(value, "nodes") for value in node.attrs.values())
        )
        if foldable and all(name in behind for name in inputs):
            read = [] if Trait.MEASURES in traits_of(node.op) else inputs
            sources = frozenset[str]().union(*(behind[name] for name in read))
            behind.update((t.name, sources) for t in node.outputs if t.name)
    return {name: sources for name, sources in behind.items() if name not in given}
