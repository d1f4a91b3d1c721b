"""A model as the bytes of its file, or of two: the second holds the weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx.external_data_helper import uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.files import Content
from onnx_reap.onnxio.light_model import LightModel, aligned
from onnx_reap.onnxio.load import files_of_data


def data_path(path: Path) -> Path:
    """Return where the weights of the model in a file go, if they don't go into it."""
    return path.with_name(path.name + ".data")


def named_data(model: Path) -> dict[str, Path]:
    """Return the files of data of an input model, by what the user calls them."""
    return {f"the input's data {each}": each for each in files_of_data(model)}


def model_files(path: Path, model: LightModel) -> dict[Path, Content]:
    """Return the files of a model, the same for the same model; the model's own is the last.

    Weights that have a file of their own go into one beside it.
    """
    weights = model.external() if model.own_file else {}
    if not weights:
        return {path: _to_bytes(model.whole())}
    out = onnx.ModelProto()
    out.CopyFrom(model.proto)
    name, at = data_path(path).name, 0
    for tensor in filter(uses_external_data, out.graph.initializer):
        size = weights[tensor.name].nbytes
        del tensor.external_data[:]
        for key, value in {"location": name, "offset": at, "length": size}.items():
            tensor.external_data.add(key=key, value=str(value))
        at = aligned(at + size)
    return {data_path(path): _Weights([*weights.values()]), path: _to_bytes(out)}


class _Weights:
    """The bytes of arrays one after another, each from an aligned place on."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays

    def __iter__(self) -> Iterator[memoryview | bytes]:
        for array in self._arrays:
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            yield little.reshape(-1).view(np.uint8).data
            yield bytes(aligned(array.nbytes) - array.nbytes)


def _to_bytes(model: onnx.ModelProto) -> bytes:
    try:
        result: bytes = model.SerializeToString(deterministic=True)
        return result
    except (EncodeError, ValueError) as error:
        raise ReapError(
            "the pruned model doesn't fit a file", got=str(error), expected="less than 2 GB"
        ) from error
