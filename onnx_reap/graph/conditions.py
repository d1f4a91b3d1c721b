"""Which branch of an If is taken, and how many trips loops make, where all samples agree."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import onnx_graphsurgeon as gs

from onnx_reap.errors import ReapError
from onnx_reap.graph.batches import Probed
from onnx_reap.graph.bodies import has_layers
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.probing import computed, few_and_all, follows_from_sizes
from onnx_reap.graph.trips import find_trips
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.session import Feed

DIFFERS = "whose branch differs from sample to sample"


def find_known(
    model: Model, probed: Probed, providers: Sequence[str], known: Collection[str]
) -> dict[str, bool | int | str]:
    """Find what the bodies of the model's own nodes run, but for those that are known.

    Returns
    -------
    dict of str to bool, int or str
        Conditions of Ifs and numbers of trips of Loops and Scans, by the node's path, see `Taken`;
        or why a body can't be followed.
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
    wanted = {name: each.name for name, each in conditions.items() if not seen[name]}
    try:
        for values in (
            computed(model.to_run(), set(wanted.values()), feeds, providers) if wanted else ()
        ):
            for name, condition in wanted.items():
                seen[name].add(bool(values[condition].item()))
            if all(len(seen[name]) > 1 for name in wanted):
                break
    except ReapError:
        return {}
    return {name: each.pop() if len(each) == 1 else DIFFERS for name, each in seen.items()}
