"""Reading a model into a graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnx_reap.errors import ReapError


def read_graph(proto: onnx.ModelProto) -> gs.Graph:
    """Read a model; constants in bfloat16 are arrays of that type, which NumPy itself lacks.

    Raises
    ------
    ReapError
        If there are such constants, and onnx is too old for them.
    """
    with G_LOGGER.suppress():  # it warns of types that NumPy lacks, on the standard output
        graph = gs.import_onnx(proto)
        attributes = (value for node in graph.nodes for value in node.attrs.values())
        for tensor in (*graph.tensors().values(), *attributes):
            if isinstance(tensor, gs.Constant) and tensor.dtype == onnx.TensorProto.BFLOAT16:
                tensor.values = _as_bfloat16(tensor.values)
    return graph


def _as_bfloat16(values: np.ndarray) -> np.ndarray:
    if values.dtype.name != "bfloat16":
        raise ReapError(
            "weights in bfloat16 can't be read",
            got=f"onnx {onnx.__version__}",
            expected="onnx 1.19 or newer",
            hint="pip install --upgrade onnx",
        )
    return values
