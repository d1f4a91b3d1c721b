"""What a rule sees of its node: shapes, labels, attributes; and what it may declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from .labels import LabelArray, Labels, Reason, along, compress, first_along, varying_axes
from .probe import Probe
from .records import Binding, EqualCounts, Linear


@dataclass
class Findings:
    """What the rules have declared so far, for the whole graph."""

    labels: dict[str, LabelArray] = field(default_factory=dict)
    linears: list[Linear] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    equal_counts: list[EqualCounts] = field(default_factory=list)
    makers: dict[str, LabelArray] = field(default_factory=dict)
    bound_uses: set[tuple[int, int]] = field(default_factory=set)
    sizes: dict[int, LabelArray] = field(default_factory=dict)


class Site:
    """One node during the label flow."""

    def __init__(
        self,
        node: gs.Node,
        key: str,
        opset: int,
        probe: Probe,
        sets: Labels,
        findings: Findings,
        *,
        of_sizes: bool = False,
    ) -> None:
        self.node = node
        self.of_sizes = of_sizes
        self.key = key
        self.opset = opset
        self.probe = probe
        self._sets = sets
        self._findings = findings

    # What the node is.

    @property
    def op(self) -> str:
        """The operator."""
        return str(self.node.op)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or `default` where the node leaves it out."""
        return self.node.attrs.get(name, default)

    def has_input(self, index: int) -> bool:
        """Whether an (optional) input is there."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def has_output(self, index: int) -> bool:
        """Whether an (optional) output is there and read by somebody."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def name(self, index: int) -> str:
        """Name of an input tensor."""
        return str(self.node.inputs[index].name)

    def output_name(self, index: int = 0) -> str:
        """Name of an output tensor."""
        return str(self.node.outputs[index].name)

    def is_constant(self, index: int) -> bool:
        """Whether an input is a constant."""
        return self.has_input(index) and isinstance(self.node.inputs[index], gs.Constant)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input in the probe."""
        return self.probe.shapes[self.name(index)]

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an output in the probe."""
        return self.probe.shapes[self.output_name(index)]

    def value(self, index: int) -> np.ndarray | None:
        """Value of a small input in the probe; None where it is absent or large."""
        return self.probe.values.get(self.name(index)) if self.has_input(index) else None

    def parameter(self, index: int, attribute: str) -> np.ndarray | None:
        """Value that newer operator sets take as an input and older ones as an attribute."""
        given = self.attribute(attribute)
        return self.value(index) if given is None else np.asarray(given)

    def axis(self, value: int, rank: int | None = None) -> int:
        """Make an axis number non-negative."""
        return int(value) % (len(self.shape(0)) if rank is None else rank)

    # What arrives and what leaves.

    def labels(self, index: int = 0) -> LabelArray:
        """Labels of an input; zeros for constants and for tensors that carry none.

        A tensor that is computed from sizes alone carries those sizes' channels; here it is
        data, so the channels behind it may not change in number.
        """
        name = self.name(index)
        found = self._findings.labels.get(name)
        if found is None:
            return np.broadcast_to(np.int64(0), self.probe.shapes[name])
        if not self.of_sizes and found.size and found.min() < 0:
            for size in np.unique(found[found < 0]):
                text = f"their number enters the computation at {self.op}"
                self.freeze(self._findings.sizes[int(size)], text)
            return np.broadcast_to(np.int64(0), found.shape)
        return found

    def set_labels(self, labels: LabelArray, index: int = 0) -> None:
        """Give an output its labels (broadcast to its shape)."""
        if self.has_output(index):
            shape = self.output_shape(index)
            self._findings.labels[self.output_name(index)] = compress(np.broadcast_to(labels, shape))

    def new_channels(self, count: int) -> LabelArray:
        """Make channels whose maker is this node; return their labels, shape (count,)."""
        new = self._sets.fresh(count)
        self._findings.makers[self.key] = new
        return new

    def fresh(self, axis: int) -> None:
        """Give the output new channels along an axis."""
        shape = self.output_shape()
        self.set_labels(along(self.new_channels(shape[axis]), shape, axis))

    def unite(self, a: LabelArray, b: LabelArray, why: str = "meets") -> None:
        """Unite labels that meet at this node."""
        text = f"{self.op} {why} frozen channels"
        self._sets.unite(a, b, Reason(self.key, text))

    def freeze(self, labels: LabelArray, why: str) -> None:
        """Freeze labels, with the reason."""
        self._sets.freeze(labels, Reason(self.key, why))

    def freeze_inputs(self, why: str) -> None:
        """Freeze all that arrives."""
        for index in range(len(self.node.inputs)):
            if self.has_input(index):
                self.freeze(self.labels(index), why)

    def uniform(self, labels: LabelArray, axes: Sequence[int]) -> LabelArray:
        """Unite labels along axes; return them with those axes at length 1."""
        first = first_along(labels, axes)
        self.unite(labels, first, "needs equal positions and one belongs to")
        return first

    def varying(self, labels: LabelArray) -> tuple[int, ...]:
        """Axes along which labels differ."""
        return varying_axes(labels)

    # What else the node has.

    def bind(
        self, index: int, axis: int, tensor: str, tensor_axis: int, blocks: int = 1
    ) -> None:
        """Declare that an axis of a constant input follows an axis of a tensor."""
        self._findings.bound_uses.add((id(self.node), index))
        binding = Binding(self.name(index), axis, tensor, tensor_axis, blocks)
        self._findings.bindings.append(binding)

    def linear(self, linear: Linear) -> None:
        """Declare this node to be a linear map with a constant weight."""
        self._findings.linears.append(linear)

    def equal_counts(self, tensor: str, axis: int, parts: int) -> None:
        """Declare that an axis falls into parts that must stay equally long."""
        self._findings.equal_counts.append(EqualCounts(self.key, tensor, axis, parts))


class Resize:
    """What a rule sees of its node after the cut, and the corrections that it may make."""

    def __init__(
        self,
        site: Site,
        kept: Mapping[str, tuple[int, np.ndarray]],
        values: Mapping[str, np.ndarray],
    ) -> None:
        self.site = site
        self.node = site.node
        self._kept = kept
        self._values = values
        self.inputs: dict[int, np.ndarray] = {}
        self.before: list[gs.Node] = []

    def kept(self, tensor: str) -> tuple[int, np.ndarray] | None:
        """Axis and positions that stay of a tensor; None where all of it stays."""
        return self._kept.get(tensor)

    def new_shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor after the cut, in the probe."""
        shape = list(self.site.probe.shapes[tensor])
        if (cut := self.kept(tensor)) is not None:
            shape[cut[0]] = len(cut[1])
        return tuple(shape)

    def value(self, index: int) -> np.ndarray | None:
        """Value of a small input as the cut model will compute it."""
        if not self.site.has_input(index):
            return None
        return self._values.get(self.site.name(index), self.site.value(index))

    def parameter(self, index: int, attribute: str) -> np.ndarray | None:
        """Like `Site.parameter`, after the cut."""
        given = self.site.attribute(attribute)
        return self.value(index) if given is None else np.asarray(given)

    def insert_before(self, node: gs.Node) -> None:
        """Put a new node in front of this one."""
        self.before.append(node)

    def set_parameter(self, index: int, attribute: str, value: np.ndarray) -> None:
        """Correct a parameter where the node keeps it."""
        if attribute in self.node.attrs:
            self.node.attrs[attribute] = [int(v) for v in np.asarray(value).ravel()]
        else:
            self.inputs[index] = value
