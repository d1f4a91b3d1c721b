"""What rules write the nodes of a backward pass with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_reap.graph.labels.records import Linear
from onnx_reap.onnxio.light_model import LightModel

PREFIX = "onnx_reap.gradient/"

Constants = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes that a node gives, text as str."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()}


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
        self.opset = next(o.version for o in part.proto.opset_import if o.domain in ("", "ai.onnx"))
        self._graph = part.graph
        self._constants: Constants = part.constants
        self._count = 0

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = self._name()
        node = onnx.helper.make_node(kind, list(inputs), [name], **attributes)
        self._graph.node.append(node)
        return name

    def floats(self, values: Any) -> str:
        """Add a constant of float32."""
        return self._constant(np.asarray(values, np.float32))

    def ints(self, values: int | Sequence[int]) -> str:
        """Add a constant of int64, a number or a vector."""
        return self._constant(np.array(values, np.int64))

    def values(self, name: str) -> np.ndarray:
        """Return a constant of the part."""
        return self._constants[name]

    def where(self, condition: str, gradient: str) -> str:
        """Let a gradient through where a condition holds."""
        return self.op("Mul", gradient, self.op("Cast", condition, to=onnx.TensorProto.FLOAT))

    def sum(self, names: Sequence[str]) -> str:
        """Add tensors of one shape."""
        return names[0] if len(names) == 1 else self.op("Sum", *names)

    def total(self, x: str, axes: Sequence[int], *, keep: bool) -> str:
        """Sum over axes."""
        return self.reduced("ReduceSum", x, axes, keep=keep) if axes else x

    def reduced(self, kind: str, x: str, axes: Sequence[int], *, keep: bool) -> str:
        """Add a ReduceSum, ReduceMean or ReduceMax over axes."""
        if self.opset < (13 if kind == "ReduceSum" else 18):
            return self.op(kind, x, axes=list(axes), keepdims=int(keep))
        return self.op(kind, x, self.ints(axes), keepdims=int(keep))

    def size(self, x: str, axis: int) -> str:
        """Return a tensor's size along an axis that is not negative, as a vector."""
        shape = self.op("Shape", x)
        return self.op("Slice", shape, self.ints([axis]), self.ints([axis + 1]))

    def like(self, gradient: str, x: str) -> str:
        """Give a gradient the shape of a tensor with as many entries."""
        return self.op("Reshape", gradient, self.op("Shape", x))

    def folded(self, gradient: str, result: str, x: str, *, matrices: bool = False) -> str:
        """Sum a gradient over the axes along which an operand was repeated to give a result.

        The last two axes of matrices are not repeated, whatever their sizes.
        """
        shape = self.shapes[x]
        extra = len(self.shapes[result]) - len(shape)
        repeated = [
            axis + extra
            for axis, size in enumerate(shape[:-2] if matrices else shape)
            if size == 1 and self.shapes[result][axis + extra] > 1
        ]
        summed = self.total(gradient, repeated, keep=True)
        return self.total(summed, range(extra), keep=False)

    def _constant(self, values: np.ndarray) -> str:
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"{PREFIX}{self._count}"
