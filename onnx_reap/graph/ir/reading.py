"""Reading a model into a graph."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import FLOATS, is_any_float


def read_graph(proto: onnx.ModelProto) -> gs.Graph:
    """Read a model; constants of a type that NumPy lacks, as bfloat16, are arrays of that type."""
    with G_LOGGER.suppress():  # it warns of types that NumPy lacks, on the standard output
        graph = gs.import_onnx(proto)
        attributes = (value for node in graph.nodes for value in node.attrs.values())
        for tensor in (*graph.tensors().values(), *attributes):
            kind = tensor.dtype if isinstance(tensor, gs.Constant) else None
            if isinstance(kind, int) and kind in FLOATS:
                tensor.values = _checked(kind, tensor.values)
    return graph


def _checked(kind: int, values: np.ndarray) -> np.ndarray:
    name = onnx.TensorProto.DataType.Name(kind).lower()
    if values.dtype.name != name:
        raise ReapError(
            f"weights in {name} can't be read",
            got=f"onnx {onnx.__version__}",
            expected="onnx 1.19 or newer",
            hint="pip install --upgrade onnx",
        )
    return values


def constant_values(node: gs.Node) -> np.ndarray | None:
    """Return the values of a Constant node; None where they are sparse or text."""
    if isinstance(tensor := node.attrs.get("value"), gs.Constant):
        return None if isinstance(tensor._values, SparseValues) else tensor.values
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for key in (name, name + "s"):
            if key in node.attrs:
                return np.asarray(node.attrs[key], dtype)
    return None


def dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    """Return a sparse tensor's values; its indices are flat, or one per axis."""
    values, indices = (numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
    dense = np.zeros(list(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def constants_of(graph: onnx.GraphProto) -> set[str]:
    """Return the names of a graph's initializers and of what its Constant nodes make."""
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    nodes = {y for node in graph.node if node.op_type == "Constant" for y in node.output}
    return sparse | nodes | {tensor.name for tensor in graph.initializer}


def is_floating(constant: gs.Constant) -> bool:
    """Whether a constant holds floating-point numbers, of any width."""
    return is_any_float(constant.dtype)
