"""Element types of ONNX and NumPy: what they are, how wide they are, and rounding to them.

`FLOATS` is the one list of the types that layers compute in; all else asks the functions here.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

FLOATS: Mapping[int, int] = MappingProxyType(
    {
        TensorProto.FLOAT: 32,
        TensorProto.DOUBLE: 64,
        TensorProto.FLOAT16: 16,
        TensorProto.BFLOAT16: 16,
    }
)
"""Bits of the floating-point types that layers compute in."""

HALVES = frozenset(kind for kind, bits in FLOATS.items() if bits == 16)
WIDE = frozenset(kind for kind, bits in FLOATS.items() if bits > 32)

_NAMES = frozenset(TensorProto.DataType.Name(kind).lower() for kind in FLOATS)
_BITS = MappingProxyType({"FLOAT": 32, "DOUBLE": 64, "BOOL": 8})
"""Bits of types whose name doesn't tell them, as UINT8, BFLOAT16 and FLOAT4E2M1 do."""


def exists(kind: int) -> bool:
    """Whether the installed onnx has an element type of that number."""
    return kind in TensorProto.DataType.values()


def bits(kind: int) -> int:
    """Return the bits of an element of an ONNX type."""
    name = TensorProto.DataType.Name(kind)
    return _BITS[name] if name in _BITS else int(re.findall(r"\d+", name)[0])


def to_numpy(kind: int) -> np.dtype:
    """Return the NumPy type of an ONNX type; that of `ml_dtypes` where NumPy itself has none."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def to_onnx(dtype: npt.DTypeLike) -> int:
    """Return the ONNX type of a NumPy type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def nbytes(tensor: TensorProto) -> int:
    """Count the bytes of a tensor as an array, by its shape and type."""
    return int(np.prod(tensor.dims, dtype=object)) * to_numpy(tensor.data_type).itemsize


def is_float(dtype: npt.DTypeLike) -> bool:
    """Whether a type is one that layers compute in; NumPy itself doesn't know bfloat16."""
    dtype = np.dtype(dtype)
    return dtype.kind == "f" or dtype.name in _NAMES


def is_any_float(kind: npt.DTypeLike | int) -> bool:
    """Whether a type is a floating-point one, also of 8 bits or less; as NumPy's or as ONNX's."""
    if isinstance(kind, int):
        return "FLOAT" in TensorProto.DataType.Name(kind) or kind in FLOATS
    return is_float(kind) or "float" in np.dtype(kind).name


def is_integer(dtype: npt.DTypeLike) -> bool:
    """Whether a type is an integer one."""
    return np.dtype(dtype).kind in "iu"


def is_integer_or_bool(dtype: npt.DTypeLike) -> bool:
    """Whether a type is an integer one or bool."""
    return np.dtype(dtype).kind in "biu"


def is_text(dtype: npt.DTypeLike) -> bool:
    """Whether a type holds text: ONNX's strings are Python objects in NumPy's arrays."""
    return np.dtype(dtype).kind in "OUT"


def is_integers(dtype: npt.DTypeLike) -> bool:
    """Whether a type is an integer one, also of 4 bits or less."""
    return np.dtype(dtype).name.lstrip("u").startswith("int")


def range_of(dtype: npt.DTypeLike) -> tuple[int, int]:
    """Return the smallest and the largest number of an integer type, also of 4 bits or less."""
    width, unsigned = bits(to_onnx(dtype)), np.dtype(dtype).name.startswith("u")
    return (0, 2**width - 1) if unsigned else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)


def is_half(dtype: npt.DTypeLike) -> bool:
    """Whether numbers are stored in 16 bits."""
    return np.dtype(dtype).itemsize == 2


def is_native(dtype: npt.DTypeLike) -> bool:
    """Whether NumPy itself has a type of numbers, as opposed to `ml_dtypes`."""
    dtype = np.dtype(dtype)
    return dtype.isbuiltin != 2 and dtype.kind in "biuf"


def cast(values: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """Convert numbers; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def rounded(values: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """Round numbers to a type, and return them in their own."""
    return cast(values, dtype).astype(values.dtype)
