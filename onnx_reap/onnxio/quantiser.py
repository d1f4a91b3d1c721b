"""What a QuantizeLinear or a DequantizeLinear does, as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_reap.onnxio.dtypes import range_of, to_numpy

AXIS = 1  # the operators' default


@dataclass(frozen=True)
class Quantiser:
    """Scale and zero point, to be broadcast to the tensor, and the integers that there are."""

    scale: np.ndarray  # Float64
    zero: np.ndarray  # Float64
    low: int
    high: int

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest real numbers that the integers stand for."""
        return (self.low - self.zero) * self.scale, (self.high - self.zero) * self.scale


def quantiser_of(
    node: onnx.NodeProto, constants: Mapping[str, np.ndarray], rank: int
) -> Quantiser | None:
    """Read a node; None where its scale is computed, or told block by block.

    Parameters
    ----------
    rank : int
        Number of axes of the tensor.
    """
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    names = [name for name in node.input[1:] if name]
    if any(name not in constants or constants[name].ndim > 1 for name in names):
        return None
    scale = constants[names[0]]
    zero = constants[names[1]] if len(names) > 1 else None
    kind = given.get("output_dtype") if node.op_type == "QuantizeLinear" else None
    default = to_numpy(kind or onnx.TensorProto.UINT8)
    dtype = default if zero is None else zero.dtype
    if "int" not in dtype.name or given.get("block_size"):
        return None
    axis = int(given.get("axis", AXIS))
    zero = np.zeros(()) if zero is None else zero
    return Quantiser(_along(scale, axis, rank), _along(zero, axis, rank), *range_of(dtype))


def _along(numbers: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Let numbers, one or one for every channel, be broadcast to a tensor."""
    shape = [-1 if place == axis % rank else 1 for place in range(rank)] if numbers.size > 1 else ()
    return np.asarray(numbers.astype(np.float64).reshape(shape))
