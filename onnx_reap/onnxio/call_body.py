"""The nodes that the call of a function stands for, while they are written."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto, TensorProto, TypeProto, helper


class Body:
    """The nodes that one call stands for; inputs are called `0`, `1` and so on."""

    def __init__(
        self, call: NodeProto, opset: int, types: Callable[[], Mapping[str, TypeProto]]
    ) -> None:
        self.call, self.opset, self._types = call, opset, types
        self.given = {a.name: helper.get_attribute_value(a) for a in call.attribute}
        self.nodes: list[NodeProto] = []

    def has(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.call.input) and bool(self.call.input[index])

    def number(self, name: str, default: float) -> float:
        """Return a number among the attributes."""
        return float(self.given.get(name, default))

    def text(self, name: str) -> str:
        """Return a text among the attributes; an empty one where it isn't there."""
        return bytes(self.given.get(name, b"")).decode()

    def __call__(self, op: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node, with numbers as constants of the first input's type; return its output."""
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        out = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], **attributes))
        return out

    def _constant(self, number: float) -> str:
        known = self._types().get(self.call.input[0], TypeProto()).tensor_type.elem_type
        tensor = helper.make_tensor("value", known or TensorProto.FLOAT, [], [number])
        return self("Constant", value=tensor)

    def integers(self, *values: int) -> str:
        """Add a list of integers."""
        return self("Constant", value_ints=values)

    def split(self, x: str, sizes: Sequence[int]) -> list[str]:
        """Split along the last axis."""
        inputs = [x, self.integers(*sizes)]
        parts = [f"Split_{len(self.nodes)}_{index}" for index in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", inputs, parts, axis=-1))
        return parts

    def shifted(self, x: str, *others: int) -> str:
        """Add those of some inputs that are there."""
        for index in others:
            x = self("Add", x, str(index)) if self.has(index) else x
        return x

    def gelu(self, x: str) -> str:
        """Add an exact Gelu."""
        whole = self("Erf", self("Mul", x, math.sqrt(0.5)))
        return self("Mul", self("Mul", x, self("Add", whole, 1.0)), 0.5)
