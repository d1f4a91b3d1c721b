"""Perturbations: one group without some of its channels, everything else intact.

Instead of cutting channels, their columns are zeroed in the consumers, which is the same function;
the columns that stay are refitted by the moments of the original.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_reap.graph.edit.weights import layer_weights
from onnx_reap.graph.groups import Group
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.measure.activations.moments import Tap, one_per_weight
from onnx_reap.measure.activations.rows import matrix_to_weight, weight_to_matrix
from onnx_reap.solve.backend import Backend
from onnx_reap.solve.kept import without
from onnx_reap.solve.moments import Moments


@dataclass(frozen=True)
class ConsumerMoments:
    """Moments at the inputs of layers, by node, and how consumers are fitted to them."""

    taps: Mapping[str, Tap]
    moments: Mapping[str, Moments]
    damping: float  # Of the ridge regression
    backend: Backend


@dataclass(frozen=True)
class WeightChange:
    """What a perturbation adds to a layer's constants."""

    linear: Linear
    weight: np.ndarray  # Of the weight's shape
    bias: np.ndarray | None  # (outputs,): none where the layer is not refitted


@dataclass(frozen=True)
class Perturbation:
    """A group without some of its units; changes are as large as layers, so made when needed."""

    consumers: tuple[ConsumerRefit, ...]  # Layers that read the group
    removed: frozenset[int]  # Units

    @property
    def outputs(self) -> list[str]:
        """Outputs of the layers that change."""
        return [layer.y for consumer in self.consumers for layer in consumer.layers]

    @property
    def entries(self) -> int:
        """Numbers in the changes of weights."""
        return sum(consumer.entries for consumer in self.consumers)

    def changes(self) -> list[WeightChange]:
        """Compute the changes."""
        return [change for consumer in self.consumers for change in consumer.without(self.removed)]


class ConsumerRefit:
    """Refits a layer to what stays of the channels that it reads."""

    def __init__(self, model: Model, node: str, flow: Flow, known: ConsumerMoments) -> None:
        self._model, self._node, self._known = model, node, known
        self._tap = known.taps[node]
        self._linear = linear = self._tap.linear
        self._units = flow.units_along(linear.x, linear.x_axis)

    @property
    def layers(self) -> tuple[Linear, ...]:
        """All layers of this weight."""
        return self._tap.layers

    @property
    def entries(self) -> int:
        """Numbers in the changes of the layers' weights."""
        result: int = len(self.layers) * self._model.constants()[self._linear.weight].values.size
        return result

    def without(self, removed: Collection[int]) -> list[WeightChange]:
        """Return the change that refits what stays, for each layer of the weight."""
        gone = np.repeat(np.isin(self._units, list(removed)), self._linear.taps)
        moments = self._known.moments[self._node]
        stored, _ = layer_weights(self._model, self._linear)
        old = weight_to_matrix(self._linear, stored)
        if not self._tap.refitted:
            return self._sliced(stored, gone)
        maps = enumerate(zip(old, np.split(gone, len(old)), strict=True))
        new = np.stack([self._refitted(moments, g, weight, lost) for g, (weight, lost) in maps])
        like = np.broadcast_to(np.float32(0), stored.shape)
        new -= old
        change = matrix_to_weight(self._linear, new, like)
        lost = -np.einsum("gd,gdo->go", self._mean(moments), new).ravel()
        lost /= self._linear.alpha
        return [
            WeightChange(layer, change, lost * (layer.alpha / layer.beta))
            for layer in self._tap.layers
        ]

    def _sliced(self, stored: np.ndarray, gone: np.ndarray) -> list[WeightChange]:
        """Return the change of layers that lose columns and stay as they are."""
        weight = weight_to_matrix(self._linear, stored)
        lost = -weight * gone.reshape(len(weight), -1, 1)
        change = matrix_to_weight(self._linear, lost, np.broadcast_to(np.float32(0), stored.shape))
        return [WeightChange(layer, change, None) for layer in self._tap.layers]

    def _refitted(
        self, moments: Moments, g: int, weight: np.ndarray, gone: np.ndarray
    ) -> np.ndarray:
        """Return the weight (D, O) of one map without some columns."""
        if not gone.any():
            return weight
        to_device, to_host = self._known.backend.to_device, self._known.backend.to_host
        fold = self._tap.fold
        rows = weight if fold is None else weight[fold].reshape(len(fold), -1)
        lost = gone if fold is None else gone[fold[:, 0]]
        gram = moments.scatter_xx[g, ...] / moments.count
        made = to_host(without(gram, to_device(rows), lost, self._known.damping))
        if fold is None:
            return np.asarray(made)
        spread = np.zeros_like(weight)
        spread[fold.ravel()] = made.reshape(fold.size, -1)
        return spread

    def _mean(self, moments: Moments) -> np.ndarray:
        """Return the mean input of every map, (g, D)."""
        mean = np.asarray(self._known.backend.to_host(moments.mean_x))
        if self._tap.fold is None:
            return mean
        spread = np.zeros((1, self._tap.columns))
        spread[0, self._tap.fold] = mean[0][:, None]
        return spread


def refits_of(
    model: Model, groups: Iterable[Group], flow: Flow, known: ConsumerMoments
) -> dict[str, ConsumerRefit]:
    """Prepare the consumers of some groups, by the first node of each weight."""
    nodes = dict.fromkeys(node for group in groups for node in group.consumers)
    return {
        node: ConsumerRefit(model, node, flow, known) for node in one_per_weight(nodes, known.taps)
    }
