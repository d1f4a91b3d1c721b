"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..labels import LabelArray
from ..site import Resize, Site


@dataclass(frozen=True)
class Rule:
    """How one operator treats channels.

    Attributes
    ----------
    flow : callable
        Reads the labels of the inputs, declares what the node does with them and sets the labels
        of the outputs. What it leaves unset is frozen.
    resize : callable, optional
        Corrects the node's own numbers (shapes, bounds, group counts) after a cut.
    moves : bool
        Whether the node only moves data, so that it can be executed on labels themselves.
    """

    flow: Callable[[Site], None]
    resize: Callable[[Resize], None] | None = None
    moves: bool = False


def movement(
    move: Callable[[Site, LabelArray], LabelArray],
    resize: Callable[[Resize], None] | None = None,
) -> Rule:
    """Make the rule of an operator with one data input, from what it does to an array."""

    def flow(site: Site) -> None:
        site.set_labels(move(site, site.labels(0)))

    return Rule(flow, resize, moves=True)
