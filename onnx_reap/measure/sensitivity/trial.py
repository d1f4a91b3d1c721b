"""One group without some of its channels, everything else intact: its consumers' weights.

Instead of cutting channels, their columns are zeroed in the consumers, which is the same function;
the columns that stay make up for them by the moments of the original.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.edit.weights import has_plain_bias, layer_weights
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.measure.activations.moments import Tap, first_of_each
from onnx_reap.measure.activations.rows import matrix_to_weight, weight_to_matrix
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.kept import without
from onnx_reap.solve.moments import Moments


@dataclass(frozen=True)
class Observed:
    """Moments at the inputs of layers, by node.

    Attributes
    ----------
    damping : float
        To use with them.
    """

    taps: Mapping[str, Tap]
    moments: Mapping[str, Moments]
    damping: float
    backend: Backend


@dataclass(frozen=True)
class Change:
    """What a trial adds to a layer's constants.

    Attributes
    ----------
    weight : array of the weight's shape
    bias : (outputs,) array, optional
        None where the layer's bias is not one number per output.
    """

    linear: Linear
    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Trial:
    """A group without some of its units: changes are made when they are needed, as large as layers.

    Attributes
    ----------
    consumers : tuple of Consumer
        Layers that read the group.
    gone : frozenset of int
        Units.
    """

    consumers: tuple[Consumer, ...]
    gone: frozenset[int]

    @property
    def outputs(self) -> list[str]:
        """What the layers give."""
        return [layer.y for consumer in self.consumers for layer in consumer.layers]

    @property
    def entries(self) -> int:
        """Numbers in the changes of weights."""
        return sum(consumer.entries for consumer in self.consumers)

    def changes(self) -> list[Change]:
        """Work the changes out."""
        return [change for consumer in self.consumers for change in consumer.without(self.gone)]


class Consumer:
    """A layer that reads channels which may go."""

    def __init__(self, model: Model, node: str, flow: Flow, observed: Observed) -> None:
        self._model, self._node, self._observed = model, node, observed
        self._tap = observed.taps[node]
        self._linear = linear = self._tap.linear
        self._units = flow.units_along(linear.x, linear.x_axis)
        self._take_biases = [has_plain_bias(model, layer) for layer in self._tap.layers]

    @property
    def layers(self) -> tuple[Linear, ...]:
        """All layers of this weight."""
        return self._tap.layers

    @property
    def entries(self) -> int:
        """Numbers in the changes of the layers' weights."""
        return len(self.layers) * self._model.constants()[self._linear.weight].values.size

    def without(self, removed: Collection[int]) -> list[Change]:
        """Return the change that makes up for units that are gone, for each layer of the weight."""
        gone = np.repeat(np.isin(self._units, list(removed)), self._linear.taps)
        moments = self._observed.moments[self._node]
        stored, _ = layer_weights(self._model, self._linear)
        old = weight_to_matrix(self._linear, stored)
        new = np.stack(
            [
                self._one(moments, g, matrix, columns)
                for g, (matrix, columns) in enumerate(
                    zip(old, np.split(gone, len(old)), strict=True)
                )
            ]
        )
        like = np.broadcast_to(np.float32(0), stored.shape)
        new -= old
        change = matrix_to_weight(self._linear, new, like)
        lost = -np.einsum("gd,gdo->go", self._mean(moments), new).ravel()
        lost /= self._linear.alpha
        return [
            Change(layer, change, lost * (layer.alpha / layer.beta) if takes else None)
            for layer, takes in zip(self._tap.layers, self._take_biases, strict=True)
        ]

    def _one(self, moments: Moments, g: int, weight: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """Return the weight (D, O) of one map."""
        if not gone.any():
            return weight
        to_device, to_host = self._observed.backend.to_device, self._observed.backend.to_host
        fold = self._tap.fold
        rows = weight if fold is None else weight[fold].reshape(len(fold), -1)
        lost = gone if fold is None else gone[fold[:, 0]]
        gram = moments.scatter_xx[g, ...] / moments.count
        made = to_host(without(gram, to_device(rows), lost, self._observed.damping))
        if fold is None:
            return np.asarray(made)
        spread = np.zeros_like(weight)
        spread[fold.ravel()] = made.reshape(fold.size, -1)
        return spread

    def _mean(self, moments: Moments) -> np.ndarray:
        """Return the mean input of every map, (g, D)."""
        mean = np.asarray(self._observed.backend.to_host(moments.mean_x))
        if self._tap.fold is None:
            return mean
        spread = np.zeros((1, self._tap.columns))
        spread[0, self._tap.fold] = mean[0][:, None]
        return spread


def consumers_of(
    model: Model, groups: Iterable[Group], flow: Flow, observed: Observed
) -> dict[str, Consumer]:
    """Prepare the consumers of some groups, by the first node of each weight."""
    nodes = dict.fromkeys(node for group in groups for node in group.consumers)
    first = first_of_each(nodes, observed.taps)
    return {node: Consumer(model, node, flow, observed) for node in first}
