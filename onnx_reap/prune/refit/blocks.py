"""Where to cut a graph into blocks of a few layers each."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from onnx_reap.measure.activations.frontier import Frontier
from onnx_reap.measure.activations.stream import Move

FEWEST, MOST = 2, 4  # layers of a block


@dataclass(frozen=True)
class Block:
    """Nodes from one place to another."""

    # Nodes, in topological order; the end is none of them
    first: int
    end: int
    after: Move  # The tensors that are alive behind it


def blocks(
    frontier: Frontier, layers: Sequence[int], end: int, opaque: Collection[int] = ()
) -> Iterator[Block]:
    """Divide a graph where little is alive between a few layers: behind blocks, mostly.

    Parameters
    ----------
    layers : sequence of int
        Places of the layers, ascending.
    end : int
        Number of nodes.
    opaque : collection of int
        Places of nodes that let no gradient through: blocks rather end in front of them.
    """
    first = 0
    while first < end:
        ahead = [place for place in layers if place >= first]
        # Behind so many layers: up to the next one, or to the end.
        gaps = [*zip(ahead[FEWEST - 1 :], [*ahead[FEWEST:], end], strict=False)] or [
            (ahead[-1] if ahead else end - 1, end)
        ]
        found = (_widest(frontier, *gap, opaque) for gap in gaps)
        near = [pair for pair in islice(found, MOST - FEWEST + 1) if pair is not None]
        near = near or [*islice((pair for pair in found if pair is not None), 1)]
        if not near:
            return
        spot, move = min(near, key=lambda pair: len(pair[1].tensors))
        yield Block(first, spot, move)
        first = spot


def _widest(
    frontier: Frontier, layer: int, end: int, opaque: Collection[int]
) -> tuple[int, Move] | None:
    """Return the last place behind a layer where few tensors are alive, but not shrunk by pooling.

    The fewer entries a target has, the fewer equations there are for the weights.
    """
    moves = [(spot, frontier.at(spot)) for spot in range(layer + 1, end + 1)]
    known = [(spot, move) for spot, move in moves if move is not None]

    def cost(pair: tuple[int, Move]) -> tuple[int, bool, int, int]:
        spot, move = pair
        hidden = any(place in opaque for place in range(layer + 1, spot))
        return len(move.tensors), hidden, -move.size, -spot

    return min(known, key=cost, default=None)
