"""Layers by weight: those that read one weight alike are refitted together, and what hinders it."""

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from onnx_reap.graph.edit.weights import has_plain_bias
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.order import affected_tensors, captured_tensors
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.records import Linear
from onnx_reap.graph.rules.traits import Trait, traits_of


def by_weight(linears: Iterable[Linear]) -> list[tuple[Linear, ...]]:
    """Put layers together that read one weight in the same way, in the order of the first."""
    uses: dict[tuple[object, ...], list[Linear]] = {}
    for linear in linears:
        uses.setdefault(linear.reading, []).append(linear)
    return [tuple(layers) for layers in uses.values()]


def counted_tensors(model: Model) -> set[str]:
    """Return the tensors that have as many entries as results of layers say.

    A cut model may have others than the original there.
    """
    nodes = model.nodes
    layers = [node for node in nodes if traits_of(node.op) & (Trait.WEIGHTED | Trait.RECURRENT)]
    learned = affected_tensors(nodes, _results(layers))
    counting = [node for node in nodes if Trait.COUNTS in traits_of(node.op)]
    by_layers = [node for node in counting if any(t.name in learned for t in node.inputs)]
    return affected_tensors(nodes, _results(by_layers))


def _results(nodes: Iterable[gs.Node]) -> set[str]:
    return {tensor.name for node in nodes for tensor in node.outputs if tensor.name}


class Refittable:
    """Tells which layers of a model can be refitted: what a plan counts on, and what is done."""

    def __init__(self, model: Model, probe: Probe) -> None:
        self._model, self._probe, self._counted = model, probe, counted_tensors(model)
        self._uses = Counter(tensor.name for node in model.nodes for tensor in node.inputs)
        self._uses.update(captured_tensors(model.nodes).keys())
        self._uses.update(tensor.name for tensor in model.graph.outputs)

    def obstacle(self, layers: Sequence[Linear]) -> str | None:
        """Tell why the layers of a weight can't be refitted; None if they can.

        Parameters
        ----------
        layers : sequence of Linear
            All that read the weight in one way, see `by_weight`.
        """
        weights = [layers[0].weight]
        if layers[0].recurrent:
            weights.append(self._model.node(layers[0].node).inputs[2].name)
        if any(self._uses[name] > len(layers) for name in weights):
            return "its weight is also used in another way"
        if len(layers) > 1 and layers[0].recurrent:
            return "other recurrent layers share its weights"
        if not all(has_plain_bias(self._model, layer) for layer in layers):
            return "its bias is not one number per output"
        if any(layer.y in self._counted for layer in layers):
            return "how many rows it receives depends on what other layers give"
        if any(self._slides_over_samples(layer) for layer in layers):
            return "samples lie along an axis that it slides over"
        return None

    def _slides_over_samples(self, layer: Linear) -> bool:
        if self._probe.batch == 1:  # whole feeds: what varies is the size of a single sample
            return False
        grows = self._probe.dynamic.get(layer.y, frozenset())
        return bool(layer.kernel) and any(axis > 1 for axis in grows)
