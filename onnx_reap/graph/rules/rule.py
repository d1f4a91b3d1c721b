"""What a rule is."""

from collections.abc import Callable
from dataclasses import dataclass

from onnx_reap.graph.labels.labels import LabelArray
from onnx_reap.graph.labels.site import Site
from onnx_reap.graph.rules.correction import Correction
from onnx_reap.graph.rules.traits import NO_TRAITS, Trait

Correct = Callable[[Correction], None]


@dataclass(frozen=True)
class Rule:
    """How one operator treats channels."""

    # Reads the labels of the inputs, declares what the node does with them and sets the labels of
    # the outputs. Inputs that it leaves unread and outputs that it leaves unset are frozen.
    flow: Callable[[Site], None]
    # Corrects the node's own numbers (shapes, bounds, group counts) after a cut
    correct: Correct | None = None
    traits: Trait = NO_TRAITS  # What else is known of the operator


def movement(
    move: Callable[[Site, LabelArray], LabelArray],
    correct: Correct | None = None,
    traits: Trait = NO_TRAITS,
) -> Rule:
    """Make the rule of an operator with one data input, from what it does to an array.

    Its other inputs (axes, sizes, indices) must be the same in every run, or follow from sizes.
    """

    def flow(site: Site) -> None:
        labels = site.labels()
        if any(site.value(index) is None for index in site.inputs() if index):
            site.freeze(labels, f"{site.op} with parameters that depend on data")
            labels = site.no_labels()
        else:
            labels = move(site, labels)
        site.set_labels(labels)

    return Rule(flow, correct, Trait.MOVES | traits)
