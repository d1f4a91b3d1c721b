"""What a backward pass is written with: values whose operators append nodes to a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.light_model import LightModel

T = TypeVar("T")

PREFIX = "onnx_reap.gradient/"

Constants = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes that a node gives, text as str."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()}


def opset(part: LightModel) -> int:
    """Return the version of the standard operator set."""
    return max(
        (o.version for o in part.proto.opset_import if o.domain in ("", "ai.onnx")), default=0
    )


class Tape:
    """Nodes to append to a part of a model, and what is known of its tensors.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of tensors, as they were before channels were cut: ranks, spatial sizes and ones are right.
    layers : mapping of str to Linear
        By the output of their node.
    """

    def __init__(
        self,
        part: LightModel,
        shapes: Shapes,
        layers: Mapping[str, Linear],
    ) -> None:
        self.shapes, self.layers = shapes, layers
        self.opset = opset(part)
        self.constants: Constants = part.constants
        self._graph = part.graph
        self._numbers = count(1)
        self._written: dict[Hashable, Any] = {}

    def op(self, kind: str, *inputs: Value | str | Sequence[int], **attributes: Any) -> Value:
        """Add a node; return its output. Sequences of int stand for constants of int64."""
        names = [self._name_of(each) for each in inputs]
        name = self._new_name()
        self._graph.node.append(onnx.helper.make_node(kind, names, [name], **attributes))
        return Value(self, name)

    def value(self, name: str) -> Value:
        """Return a tensor of the part."""
        return Value(self, name)

    def floats(self, values: Any) -> Value:
        """Add a constant of float32."""
        return self._constant(np.asarray(values, np.float32))

    def ints(self, values: int | Sequence[int]) -> Value:
        """Add a constant of int64, a number or a vector."""
        return self._constant(np.array(values, np.int64))

    def sum(self, values: Sequence[Value]) -> Value:
        """Add tensors of one shape."""
        return values[0] if len(values) == 1 else self.op("Sum", *values)

    def once(self, key: Hashable, write: Callable[[], T]) -> T:
        """Return what was written under a key, after writing it if it wasn't yet."""
        if key not in self._written:
            self._written[key] = write()
        result: T = self._written[key]
        return result

    def scan(
        self,
        step: Callable[[list[Value]], Sequence[Value]],
        states: Sequence[Value],
        sequences: Sequence[Value],
        *,
        backwards: bool,
    ) -> list[Value]:
        """Repeat a step along the first axis of sequences, whichever end comes first.

        Parameters
        ----------
        step : callable
            Takes the states and an entry of every sequence, matrices all; returns the states behind
            it and matrices to collect. Values of this tape may be used in it.

        Returns
        -------
        list of Value
            The last states, then the collected sequences, in the order of the given ones.
        """
        inner = copy.copy(self)
        inner._graph = onnx.GraphProto(name="step")
        given = [Value(inner, self._new_name()) for _ in (*states, *sequences)]
        # What is passed on as it is would have one name on both sides.
        made = [each.op("Identity") for each in step(given)]
        for values, ends in ((given, inner._graph.input), (made, inner._graph.output)):
            ends.extend(
                onnx.helper.make_tensor_value_info(each.name, onnx.TensorProto.FLOAT, [None, None])
                for each in values
            )
        results = [Value(self, self._new_name()) for _ in made]
        node = onnx.helper.make_node(
            "Scan",
            [each.name for each in (*states, *sequences)],
            [each.name for each in results],
            body=inner._graph,
            num_scan_inputs=len(sequences),
            scan_input_directions=[int(backwards)] * len(sequences),
            scan_output_directions=[int(backwards)] * (len(made) - len(states)),
        )
        self._graph.node.append(node)
        return results

    def _constant(self, values: np.ndarray) -> Value:
        name = self._new_name()
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return Value(self, name)

    def _name_of(self, operand: Value | str | Sequence[int]) -> str:
        if isinstance(operand, str):
            return operand
        return (operand if isinstance(operand, Value) else self.ints(operand)).name

    def _new_name(self) -> str:
        return f"{PREFIX}{next(self._numbers)}"


@dataclass(frozen=True)
class Value:
    """A tensor that formulas are written with; numbers in them become constants of float32."""

    tape: Tape
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a tensor of the part, see `Tape`."""
        return self.tape.shapes[self.name]

    def __add__(self, other: Value | float) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self.tape.floats(other) - self

    def __mul__(self, other: Value | float) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("Div", other)

    def __neg__(self) -> Value:
        return self.op("Neg")

    def __gt__(self, other: Value | float) -> Value:
        return self._with("Greater", other)

    def __lt__(self, other: Value | float) -> Value:
        return self._with("Less", other)

    def _with(self, kind: str, other: Value | float) -> Value:
        return self.op(kind, other if isinstance(other, Value) else self.tape.floats(other))

    def op(self, kind: str, *others: Value | str | Sequence[int], **attributes: Any) -> Value:
        """Add a node with this as its first input."""
        return self.tape.op(kind, self, *others, **attributes)

    def exp(self) -> Value:
        """Exponential."""
        return self.op("Exp")

    def floats(self) -> Value:
        """Convert to float32: truth to ones, as a mask."""
        return self.op("Cast", to=onnx.TensorProto.FLOAT)

    def choose(self, yes: Value, no: Value) -> Value:
        """Take from one tensor where this is true, else from another."""
        return self.op("Where", yes, no)

    def sum(self, axes: Sequence[int], *, keep: bool) -> Value:
        """Sum over axes, if there are any."""
        return self.reduced("ReduceSum", axes, keep=keep) if axes else self

    def mean(self, axes: Sequence[int]) -> Value:
        """Mean over axes, which stay."""
        return self.reduced("ReduceMean", axes)

    def reduced(self, kind: str, axes: Sequence[int], *, keep: bool = True) -> Value:
        """Add a ReduceSum, ReduceMean or ReduceMax over axes."""
        if self.tape.opset < (13 if kind == "ReduceSum" else 18):
            return self.op(kind, axes=list(axes), keepdims=int(keep))
        return self.op(kind, axes, keepdims=int(keep))

    def sizes(self) -> Value:
        """Shape as a vector, when the model is run."""
        return self.op("Shape")

    def zeros(self) -> Value:
        """Zeros of this shape."""
        return self.sizes().op("ConstantOfShape")

    def size_and_rest(self) -> Value:
        """Sizes of a matrix with as many rows as this vector has entries."""
        return self.tape.op("Concat", self.sizes(), [-1], axis=0)

    def size(self, axis: int) -> Value:
        """Size along an axis that is not negative, as a vector."""
        return self.sizes().op("Slice", [axis], [axis + 1])

    def reshape(self, sizes: Sequence[int]) -> Value:
        """Reshape, to sizes as Reshape takes them."""
        return self.op("Reshape", sizes)

    def like(self, other: Value) -> Value:
        """Give this the shape of a tensor with as many entries."""
        return self.op("Reshape", other.sizes())

    def transpose(self, perm: Sequence[int]) -> Value:
        """Reorder axes."""
        return self.op("Transpose", perm=list(perm))
