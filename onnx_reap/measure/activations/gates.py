"""A recurrent layer's weights as matrices of linear maps, as `rows` has those of other layers.

Every map of `Recurrence.maps` is `Y = X W + b`, one for each of D directions: X has the shape (D,
n, columns), W (D, columns, outputs) and Y (D, n, outputs). A column is an input or a unit of the
state, and an output is a unit of one of the map's gates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.recurrent import GateMap
from onnx_reap.measure.activations.rows import Rows

Array = npt.NDArray[np.float64]

RESET = GateMap(1, 2)
"""The reset gate of a GRU."""


@dataclass(frozen=True)
class Gates:
    """The weights of a recurrent layer with hidden size H and so many results, H for every gate."""

    weight: Array  # (D, results, inputs)
    recurrent: Array  # (D, results, H)
    bias: Array  # (D, 2, results): of the products with the input, and with the state

    @staticmethod
    def of(model: Model, key: str) -> Gates:
        """Read the weights of a node."""
        node = model.node(key)
        weight, recurrent = (t.values.astype(np.float64) for t in node.inputs[1:3])
        shape = (len(weight), 2, weight.shape[1])
        given = [t.values.astype(np.float64) for t in node.inputs[3:4] if t.name]
        return Gates(weight, recurrent, given[0].reshape(shape) if given else np.zeros(shape))

    def matrix(self, part: GateMap) -> Array:
        """Return the weight of a map, (D, columns, outputs)."""
        sides = self._read(part, self.weight, self.recurrent)
        return np.concatenate(sides, axis=2).transpose(0, 2, 1)

    def offset(self, part: GateMap) -> Array:
        """Return the bias of a map, (D, outputs)."""
        total: Array = np.sum(self._read(part, self.bias[:, 0], self.bias[:, 1]), axis=0)
        return total

    def columns(self, part: GateMap, x: Rows, state: Rows) -> Rows:
        """Return what a map reads, (D, n, columns), of inputs (1, n, I) and states (D, n, H)."""
        if part.reset:
            with np.errstate(over="ignore"):  # of gates that are closed
                state = state / (1 + np.exp(-self.outputs(RESET, x, state)))
        everywhere = np.broadcast_to(x, (*state.shape[:2], x.shape[2]))
        return np.concatenate([everywhere] * part.input + [state] * part.state, axis=2)

    def outputs(self, part: GateMap, x: Rows, state: Rows) -> Rows:
        """Return what a map gives, (D, n, outputs)."""
        product = self.columns(part, x, state) @ self.matrix(part).astype(x.dtype)
        result: Rows = product + self.offset(part)[:, None].astype(x.dtype)
        return result

    def replaced(self, part: GateMap, matrix: Array, offset: Array) -> Gates:
        """Return the weights with others for a map; of its two biases, one stays."""
        weight, recurrent, bias = self.weight.copy(), self.recurrent.copy(), self.bias.copy()
        rows, inputs = self._rows(part), self.weight.shape[2] * part.input
        if part.input:
            weight[:, rows] = matrix[:, :inputs].transpose(0, 2, 1)
        if part.state:
            recurrent[:, rows] = matrix[:, inputs:].transpose(0, 2, 1)
        side = 0 if part.input else 1
        bias[:, side, rows] += offset - self.offset(part)
        return Gates(weight, recurrent, bias)

    def places(self, part: GateMap, units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where some units of the state are among a map's outputs."""
        first = np.arange(part.end - part.first) * self.recurrent.shape[2]
        found: npt.NDArray[np.int64] = (first[:, None] + units).ravel()
        return found

    def _rows(self, part: GateMap) -> slice:
        hidden = self.recurrent.shape[2]
        return slice(part.first * hidden, part.end * hidden)

    def _read(self, part: GateMap, of_input: Array, of_state: Array) -> list[Array]:
        """Return those of two arrays that belong to what a map reads."""
        rows = self._rows(part)
        return [of_input[:, rows]] * part.input + [of_state[:, rows]] * part.state
