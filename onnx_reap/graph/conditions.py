"""Which branch of an If is taken, and how many trips loops make, where all samples agree."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError
from onnx_reap.graph.batches import Probed
from onnx_reap.graph.bodies import has_layers
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.probing import few_and_all, follows_from_sizes
from onnx_reap.graph.trips import find_trips
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.extract import extract
from onnx_reap.onnxio.float32 import in_float32
from onnx_reap.onnxio.session import Feed, run, session

DIFFERS = "whose branch differs from sample to sample"


def find_known(
    model: Model, probed: Probed, providers: Sequence[str], known: Collection[str]
) -> dict[str, bool | int | str]:
    """Find what the bodies of the model's own nodes run, but for those that are known.

    Returns
    -------
    dict of str to bool, int or str
        Conditions of Ifs and numbers of trips of Loops and Scans, by the node's first result; or
        why a body can't be followed.
    """
    own = {name: node for name, node in model.with_bodies().items() if name not in known}
    ifs = {name: node for name, node in own.items() if "then_branch" in node.attrs}
    loops = {name: node for name, node in own.items() if "body" in node.attrs}
    conditions = _conditions(model, probed, providers, ifs)
    return {**conditions, **find_trips(model, probed, providers, loops)}


def _conditions(
    model: Model, probed: Probed, providers: Sequence[str], nodes: Mapping[str, gs.Node]
) -> dict[str, bool | str]:
    """Compute the conditions of Ifs.

    Conditions that follow from sizes are computed for a few batches of different size. All others
    are computed for all samples too, if layers are in a branch: without any nothing would be won.
    Left out are Ifs with results that are no real numbers, on which shapes may depend.
    """
    probe, *_ = probed
    nodes = {name: node for name, node in nodes.items() if _is_real(node, probe)}
    if not nodes:
        return {}
    by_sizes = {name for name, node in nodes.items() if follows_from_sizes(node.inputs[0])}
    by_data = {name for name, node in nodes.items() if has_layers(node)} - by_sizes
    few, every = few_and_all(probed)
    found: dict[str, bool | str] = {}
    for names, feeds in ((by_sizes, few), (by_data, chain(few, every))):
        conditions = {name: nodes[name].inputs[0] for name in nodes if name in names}
        found |= _agreed(model, conditions, feeds, providers)
    return found


def _is_real(node: gs.Node, probe: Probe) -> bool:
    names = [tensor.name for tensor in node.outputs if tensor.name]
    return all(name in probe.dtypes and is_float(probe.dtypes[name]) for name in names)


def _agreed(
    model: Model,
    conditions: Mapping[str, gs.Tensor],
    feeds: Iterable[Feed],
    providers: Sequence[str],
) -> dict[str, bool | str]:
    """Return conditions, or that feeds disagree; no conditions if some can't be computed."""
    seen = {
        name: {bool(each.values.item())} if isinstance(each, gs.Constant) else set[bool]()
        for name, each in conditions.items()
    }
    computed = {name: each.name for name, each in conditions.items() if not seen[name]}
    try:
        for values in (
            _computed(model, set(computed.values()), feeds, providers) if computed else ()
        ):
            for name, condition in computed.items():
                seen[name].add(bool(values[condition].item()))
            if all(len(seen[name]) > 1 for name in computed):
                break
    except ReapError:
        return {}
    return {name: each.pop() if len(each) == 1 else DIFFERS for name, each in seen.items()}


def _computed(
    model: Model, tensors: Collection[str], feeds: Iterable[Feed], providers: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    light, names = model.to_light(), sorted(tensors)
    part = in_float32(replace(light, proto=extract(light.proto, {}, names)), model.types)
    read = {value.name for value in part.graph.input}
    active = session(part, providers, optimize=False)
    for feed in feeds:
        yield run(active, names, {name: x for name, x in feed.items() if name in read})
