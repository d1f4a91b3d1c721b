"""Vectors of parameters that several nodes read: a copy each, so that their channels are free."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.rules.traits import Trait, has_rule, traits_of


def unshare(
    nodes: Iterable[gs.Node],
    taken: Iterable[str],
    unused: Callable[[str], str],
    joints: Set[str],
    in_first_trip: Mapping[str, str],
) -> dict[str, str]:
    """Give every use of a vector a copy of its own, in place.

    Layers of one weight share theirs, as do the trips of a loop.

    Parameters
    ----------
    taken : iterable of str
        Constants that have another use.
    unused : callable
        Makes a new name of a name.
    joints, in_first_trip : set and mapping of str
        See `Model`.

    Returns
    -------
    dict of str to str
        The original's name, by that of the copy.
    """
    seen, copied = set(taken), dict[str, str]()
    copies: dict[tuple[str, ...], gs.Constant] = {}
    for key, node in enumerate(nodes):
        weighted = Trait.WEIGHTED in traits_of(node.op)
        made = node.outputs[0].name if node.outputs else str(key)
        known_by = [t.name for t in node.inputs[1:]] if weighted else [made]
        layer = [in_first_trip.get(name, name) for name in known_by]
        for index in _vectors(node, made in joints):
            shared = node.inputs[index]
            use = (shared.name, *layer)
            if use not in copies and shared.name in seen:
                copies[use] = gs.Constant(unused(shared.name), shared.values)
                copied[copies[use].name] = shared.name
            seen.add(shared.name)
            node.inputs[index] = copies.setdefault(use, shared)
    return copied


def still_equal(copied: Mapping[str, str], constants: Mapping[str, gs.Constant]) -> dict[str, str]:
    """Return copies that hold the very same array as another constant, with the name of that one.

    It is the original, or the first of the copies where that has another array, or is gone.
    """
    first = {(n, id(constants[n].values)): n for n in copied.values() if n in constants}
    same: dict[str, str] = {}
    for copy, name in copied.items():
        if copy in constants:
            one = first.setdefault((name, id(constants[copy].values)), copy)
            same |= {copy: one} if one != copy else {}
    return same


def _vectors(node: gs.Node, is_joint: bool) -> list[int]:
    """Return the inputs that are constants along channels, but no weights."""
    traits = Trait.OWN_CHANNEL if is_joint else traits_of(node.op)
    if node.domain not in STANDARD_DOMAINS or not has_rule(node.op) or Trait.MOVES in traits:
        return []
    first = 2 if Trait.WEIGHTED in traits else 3 if Trait.RECURRENT in traits else 0
    own = Trait.OWN_CHANNEL in traits
    return [
        index
        for index, tensor in enumerate(node.inputs)
        if isinstance(tensor, gs.Constant)
        and index >= first
        and math.prod(tensor.shape) > 1
        and (own or _is_vector(tensor.shape))
    ]


def _is_vector(shape: Sequence[int]) -> bool:
    return math.prod(shape) == max(shape)
