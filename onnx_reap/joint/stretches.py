"""Where to cut a graph into stretches of a few layers each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx_reap.capture.frontier import Frontier
from onnx_reap.capture.stream import Move

FEWEST, MOST = 2, 4  # layers of a stretch


@dataclass(frozen=True)
class Stretch:
    """Nodes from one place to another.

    Attributes
    ----------
    first, end : int
        Nodes, in topological order; the end is none of them.
    after : Move
        The tensors that are alive behind it.
    """

    first: int
    end: int
    after: Move


def stretches(frontier: Frontier, layers: Sequence[int], end: int) -> Iterator[Stretch]:
    """Divide a graph where little is alive between a few layers: behind blocks, mostly.

    Parameters
    ----------
    layers : sequence of int
        Places of the layers, ascending.
    end : int
        Number of nodes.
    """
    first = 0
    while first < end:
        ahead = [place for place in layers if place >= first]
        ends = [*ahead[FEWEST:], end]
        moves = [(spot, frontier.at(spot)) for spot in ends]
        known = [(spot, move) for spot, move in moves if move is not None]
        near = [pair for pair in known if pair[0] in ends[: MOST - FEWEST + 1]] or known[:1]
        if not near:
            return
        spot, move = min(near, key=lambda pair: len(pair[1].tensors))
        yield Stretch(first, spot, move)
        first = spot
