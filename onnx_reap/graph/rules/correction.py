"""What a rule sees of its node after a cut, and the corrections that it may make."""

from collections.abc import Mapping, Set

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.ir.view import View
from onnx_reap.graph.labels.kept import Kept


class Correction(View):
    """One node after the cut: shapes and values are those of the cut model.

    Parameters
    ----------
    kept : mapping of str to (axis, positions)
        What stays of tensors that lose something.
    values : mapping of str to numpy.ndarray
        New values of tensors that are computed from sizes, where they change.
    """

    def __init__(
        self,
        node: gs.Node,
        model: Model,
        probe: Probe,
        of_sizes: Set[str],
        kept: Kept,
        values: Mapping[str, np.ndarray],
    ) -> None:
        super().__init__(node, model, probe, of_sizes)
        self.before = View(node, model, probe, of_sizes)  # The node before the cut
        self._model = model
        self._kept = kept
        self._values = values

    def kept(self, tensor: str) -> tuple[int, np.ndarray] | None:
        """Axis and positions that stay of a tensor; None where all of it stays."""
        return self._kept.get(tensor)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input after the cut, in the probe."""
        return self._left(self.name(index))

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an output after the cut, in the probe."""
        return self._left(self.output_name(index))

    def _left(self, tensor: str) -> tuple[int, ...]:
        shape = list(self.probe.shapes[tensor])
        if (cut := self.kept(tensor)) is not None:
            shape[cut[0]] = len(cut[1])
        return tuple(shape)

    def value(self, index: int) -> np.ndarray | None:
        """Value of an input as the cut model computes it, see `View.value`."""
        new = self._values.get(self.name(index)) if self.has_input(index) else None
        return super().value(index) if new is None else new

    def set_parameter(self, index: int, attribute: str, value: np.ndarray) -> None:
        """Correct a parameter where the node keeps it; as an input if it is new."""
        if attribute in self.node.attrs:
            self.node.attrs[attribute] = np.asarray(value).tolist()
        else:
            self.set_input(index, value)

    def set_input(self, index: int, value: np.ndarray) -> None:
        """Correct an input: a constant, or an override of those entries that are wrong."""
        value = np.asarray(value)
        name = self._model.unused(f"{self.output_name()}_{self.op.lower()}_{index}")
        if not self.has_input(index) or self.is_constant(index):
            old = self.value(index)
            new: gs.Tensor = gs.Constant(name, value if old is None else value.astype(old.dtype))
        else:
            new = self._override(index, name, value)
        while len(self.node.inputs) <= index:
            self.node.inputs.append(gs.Variable.empty())
        self.node.inputs[index] = new

    def _override(self, index: int, name: str, value: np.ndarray) -> gs.Variable:
        computed = self.value(index)
        assert computed is not None
        wrong, right = np.asarray(value != computed), value.astype(computed.dtype)
        new = gs.Variable(name, computed.dtype)
        constants = [
            gs.Constant(self._model.unused(f"{name}_{role}"), values)
            for role, values in (("where", wrong), ("fixed", right))
        ]
        inputs = [*constants, self.node.inputs[index]]
        self._model.insert(gs.Node("Where", f"{name}_override", {}, inputs, [new]), self.node)
        return new

    def pick_input(self, axis: int, positions: np.ndarray) -> None:
        """Put a Gather in front of the node."""
        source = self.node.inputs[0]
        picked = gs.Variable(self._model.unused(f"{self.output_name()}_picked"), source.dtype)
        self._model.insert(self._gather(source, picked, axis, positions), self.node)
        self.node.inputs[0] = picked

    def pick_output(self, axis: int, positions: np.ndarray) -> None:
        """Put a Gather behind the node."""
        result = self.node.outputs[0]
        whole = gs.Variable(self._model.unused(f"{result.name}_whole"), result.dtype)
        self.node.outputs[0] = whole
        self._model.insert(self._gather(whole, result, axis, positions), self.node, behind=True)

    def _gather(
        self, source: gs.Tensor, result: gs.Variable, axis: int, positions: np.ndarray
    ) -> gs.Node:
        indices = gs.Constant(
            self._model.unused(f"{result.name}_indices"), positions.astype(np.int64)
        )
        return gs.Node("Gather", f"{self.key}_pick", {"axis": axis}, [source, indices], [result])
