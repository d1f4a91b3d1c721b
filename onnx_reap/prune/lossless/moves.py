"""Where the channels behind a movement of data come from: it is executed on indices."""

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.labels import LabelArray, along
from onnx_reap.graph.labels.records import Flow
from onnx_reap.graph.labels.site import Findings, Site
from onnx_reap.graph.rules.table import RULES

MOST_ENTRIES = 2**22  # entries of a tensor whose every entry is followed


class _UnfollowedError(Exception):
    """The rule does more than to move data."""


class _Mover(Site):
    """A node whose inputs carry indices instead of labels."""

    def __init__(self, node: gs.Node, findings: Findings, given: dict[int, LabelArray]) -> None:
        super().__init__(node, findings)
        self._given = given
        self.moved: dict[int, LabelArray] = {}

    def labels(self, index: int = 0) -> LabelArray:
        """Return the indices that an input carries."""
        return self._given[index]

    def set_labels(self, labels: LabelArray, index: int = 0) -> None:
        """Note the indices that an output carries."""
        if self.has_output(index):
            self.moved[index] = np.broadcast_to(labels, self.output_shape(index))

    def new_channels(self, count: int) -> LabelArray:
        """Refuse: what is made is not moved."""
        raise _UnfollowedError

    def unite(self, a: LabelArray, b: LabelArray, why: str = "") -> None:
        """Refuse: what is united is not moved."""
        raise _UnfollowedError

    def uniform(self, labels: LabelArray, axes: Iterable[int]) -> LabelArray:
        """Return the indices as they are: what has to go as one moves no other way for that."""
        return labels

    def freeze(self, labels: LabelArray, why: str) -> None:
        """Refuse: the movement is not understood."""
        raise _UnfollowedError

    def freeze_inputs(self, why: str, indices: Iterable[int] | None = None) -> None:
        """Refuse: the movement is not understood."""
        raise _UnfollowedError


class Mover:
    """Executes movements of a model on indices."""

    def __init__(self, model: Model, probe: Probe, flow: Flow) -> None:
        self._findings = Findings(model, probe, of_sizes=set(flow.of_sizes))
        self._shapes = probe.shapes

    def picked(self, node: gs.Node, axes: dict[int, int]) -> dict[int, np.ndarray] | None:
        """Tell where channels come from, where a node moves each as a whole.

        Parameters
        ----------
        axes : dict of int to int
            The axis of channels, by input.

        Returns
        -------
        dict of int to int array
            By output and of its shape, the channels that its entries come from, counted through
            all inputs. None where that is not known.
        """
        given, start = {}, 0
        for index, axis in axes.items():
            shape = self._shapes[node.inputs[index].name]
            given[index] = along(np.arange(start, start + shape[axis]), shape, axis)
            start += shape[axis]
        return self._run(node, given)

    def parts(self, node: gs.Node, inner: int, outer: int) -> tuple[np.ndarray, list[bytes]] | None:
        """Tell where every entry of a node's output comes from.

        Parameters
        ----------
        inner, outer : int
            The axes of channels, of the input and of the output.

        Returns
        -------
        channel : (P, Q) int array
            By channel of the output, the channel of the input that each of its entries is from.
        rest : list of bytes
            By channel of the output, where in these channels its entries are.
        """
        shape = self._shapes[node.inputs[0].name]
        size, step = int(np.prod(shape)), int(np.prod(shape[inner + 1 :]))
        entries = np.arange(size).reshape(shape)
        moved = None if size > MOST_ENTRIES else self._run(node, {0: entries})
        if moved is None:
            return None
        index = np.moveaxis(moved[0], outer, 0).reshape(moved[0].shape[outer], -1)
        channel = index // step % shape[inner]
        return channel, [row.tobytes() for row in index - channel * step]

    def _run(self, node: gs.Node, given: dict[int, LabelArray]) -> dict[int, np.ndarray] | None:
        site = _Mover(node, self._findings, given)
        try:
            RULES[node.op].flow(site)
        except _UnfollowedError:
            return None
        return site.moved
