"""What a rule sees of its node during the label flow, and what it may declare."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.ir.view import View
from onnx_reap.graph.labels.labels import (
    LabelArray,
    Labels,
    Reason,
    along,
    collapse,
    compress,
    first_along,
    varying_axes,
)
from onnx_reap.graph.labels.records import Binding, EqualCounts, Linear, Product


@dataclass
class Findings:
    """What the rules have declared so far, for the whole graph."""

    model: Model
    probe: Probe
    sets: Labels = field(default_factory=Labels)
    # By tensor. Labels of tensors in `of_sizes` are numbers of `sizes`, negative.
    labels: dict[str, LabelArray] = field(default_factory=dict)
    linears: list[Linear] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    equal_counts: list[EqualCounts] = field(default_factory=list)
    # Channels by the node that made them
    makers: dict[str, LabelArray] = field(default_factory=dict)
    # By use of a constant, (id of node, input): the axes that a binding covers
    bound_uses: dict[tuple[int, int], set[int]] = field(default_factory=dict)
    # Tensors that are computed from the sizes of others
    of_sizes: set[str] = field(default_factory=set)
    # Axes of tensors that a number is computed from
    sizes: dict[int, frozenset[tuple[str, int]]] = field(default_factory=dict)
    # Labels of sizes that enter the computation, so that their axes may not shrink
    fixed_sizes: list[tuple[LabelArray, Reason]] = field(default_factory=list)

    def new_size(self, axes: Iterable[tuple[str, int]]) -> int:
        """Return a label for a number that is computed from sizes; 0 if there are none."""
        if not (behind := frozenset(axes)):
            return 0
        number = -1 - len(self.sizes)
        self.sizes[number] = behind
        return number

    def measured(self, labels: LabelArray) -> frozenset[tuple[str, int]]:
        """Return the axes behind an array of labels of sizes."""
        numbers = np.unique(collapse(labels)).tolist()
        return frozenset[tuple[str, int]]().union(*(self.sizes[n] for n in numbers if n < 0))

    def counted(self, labels: LabelArray) -> LabelArray:
        """Return the channels behind an array of labels of sizes."""
        behind = [collapse(self.labels[tensor]).ravel() for tensor, _ in self.measured(labels)]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *behind]))

    def channels(self, name: str) -> LabelArray:
        """Return the labels of a tensor, or of what it counts if it is computed from sizes."""
        labels = self.labels[name]
        return self.counted(labels) if name in self.of_sizes else labels

    def data(self) -> dict[str, LabelArray]:
        """Return the labels of all tensors that aren't computed from sizes."""
        return {name: x for name, x in self.labels.items() if name not in self.of_sizes}


class Site(View):
    """One node during the label flow.

    An input that a rule neither reads nor binds is not understood, and freezes the node's channels.
    """

    def __init__(self, node: gs.Node, findings: Findings) -> None:
        super().__init__(node, findings.model, findings.probe, findings.of_sizes)
        self._findings = findings
        self.used: set[int] = set()  # Inputs that the rule has read or bound

    # What arrives and what leaves.

    def value(self, index: int) -> np.ndarray | None:
        """Value of an input that is the same in every run, see `View.value`."""
        self.used.add(index)
        return super().value(index)

    def ignore(self, index: int) -> None:
        """Declare that the contents and the size of an input don't matter."""
        self.used.add(index)

    def labels(self, index: int = 0) -> LabelArray:
        """Labels of an input; zeros for constants and for tensors that carry none.

        A tensor that is computed from sizes alone carries those sizes' channels; here it is
        data, so the axes that were measured may not shrink.
        """
        self.used.add(index)
        name = self.name(index)
        found = self._findings.labels.get(name)
        if name in self._findings.of_sizes and found is not None:
            reason = Reason(self.key, f"their number enters the computation at {self.op}")
            self._findings.fixed_sizes.append((found, reason))
            found = None
        return np.broadcast_to(np.int64(0), self.shape(index)) if found is None else found

    def set_labels(self, labels: LabelArray, index: int = 0) -> None:
        """Give an output its labels (broadcast to its shape)."""
        if self.has_output(index):
            shape = self.output_shape(index)
            whole = compress(np.broadcast_to(labels, shape))
            self._findings.labels[self.output_name(index)] = whole

    def set_named(self, name: str, labels: LabelArray) -> None:
        """Give labels to what stands in for a tensor, see `onnx_reap.graph.ir.recurrent`."""
        self._findings.labels[name] = compress(labels)

    def no_labels(self) -> LabelArray:
        """Labels of an output that is frozen throughout."""
        return np.broadcast_to(np.int64(0), self.output_shape())

    def new_channels(self, count: int) -> LabelArray:
        """Make channels whose maker is this node; return their labels, shape (count,)."""
        new = self._findings.sets.fresh(count)
        self._findings.makers[self.key] = new
        return new

    def spare_channels(self, count: int) -> LabelArray:
        """Make channels that carry no information, so that nobody asks who made them."""
        return self._findings.sets.fresh(count)

    def fresh(self, axis: int) -> None:
        """Give the output new channels along an axis."""
        shape = self.output_shape()
        self.set_labels(along(self.new_channels(shape[axis]), shape, axis))

    def unite(self, a: LabelArray, b: LabelArray, why: str = "meets") -> None:
        """Unite labels that meet at this node."""
        reason = Reason(self.key, f"{self.op} {why} frozen channels")
        self._findings.sets.unite(a, b, reason)

    def freeze(self, labels: LabelArray, why: str) -> None:
        """Freeze labels, with the reason."""
        self._findings.sets.freeze(labels, Reason(self.key, why))

    def freeze_inputs(self, why: str, indices: Iterable[int] | None = None) -> None:
        """Freeze what arrives, at all inputs or at some."""
        for index in self.inputs() if indices is None else indices:
            self.freeze(self.labels(index), why)

    def uniform(self, labels: LabelArray, axes: Iterable[int]) -> LabelArray:
        """Unite labels along axes; return them with those axes at length 1."""
        first = first_along(labels, axes)
        self.unite(labels, first, "needs equal positions and one belongs to")
        return first

    def varying(self, labels: LabelArray) -> tuple[int, ...]:
        """Axes along which labels differ."""
        return varying_axes(labels)

    # What else the node has.

    def bind(self, index: int, axis: int, tensor: str, tensor_axis: int, blocks: int = 1) -> None:
        """Declare that an axis of a constant input follows an axis of a tensor."""
        self.used.add(index)
        self._findings.bound_uses.setdefault((id(self.node), index), set()).add(axis)
        binding = Binding(self.name(index), axis, tensor, tensor_axis, blocks)
        self._findings.bindings.append(binding)

    def bind_aligned(self, index: int) -> None:
        """Let a constant follow the output's axes that it meets under broadcasting."""
        self.used.add(index)
        shape, rank = self.shape(index), len(self.output_shape())
        for axis, size in enumerate(shape):
            if size > 1:
                self.bind(index, axis, self.output_name(), rank - len(shape) + axis)

    def linear(self, linear: Linear) -> None:
        """Declare this node to be a linear map with a constant weight."""
        self._findings.linears.append(linear)

    def product(
        self, terms: float, index: int = 0, over: str | None = None, weight: str | None = None
    ) -> None:
        """Declare how many multiply-accumulates each entry of an output takes, see `Product`."""
        self._findings.products.append(Product(self.output_name(index), terms, over, weight))

    def equal_counts(self, tensor: str, axis: int, parts: int) -> None:
        """Declare that an axis falls into parts that must stay equally long."""
        self._findings.equal_counts.append(EqualCounts(self.key, tensor, axis, parts))


class SizeSite(Site):
    """A node that only moves numbers which are computed from sizes; their labels are negative."""

    def labels(self, index: int = 0) -> LabelArray:
        """Labels of an input, as numbers of `Findings.sizes`."""
        found = self._findings.labels.get(self.name(index))
        return np.broadcast_to(np.int64(0), self.shape(index)) if found is None else found

    def freeze(self, labels: LabelArray, why: str) -> None:
        """Keep the sizes as they are."""
        self._findings.fixed_sizes.append((labels, Reason(self.key, why)))
