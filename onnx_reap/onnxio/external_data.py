"""Weights that a model's file leaves in other files beside it.

Their names come with the model, so they lead nowhere but into its own folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.damage import check_kind, tensors
from onnx_reap.onnxio.dtypes import nbytes, to_numpy
from onnx_reap.onnxio.extract import graphs
from onnx_reap.onnxio.light_model import LightModel, external_initializer, fill, lies_beside
from onnx_reap.onnxio.mapped_files import MappedFile


@dataclass(frozen=True)
class _Data:
    """Where a tensor's bytes lie."""

    path: Path
    offset: int
    length: int


def data_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """List the files that a model as it was parsed, from `path`, names for its weights."""
    outside = [_entries(tensor).get("location", "") for tensor in _outside(model)]
    named = (path.parent / name for name in dict.fromkeys(outside) if name)
    return [file for file in named if _is_there(file)]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # what can't be the name of a file
        return False


def read_external(model: onnx.ModelProto, path: Path, label: str) -> LightModel:
    """Find the data of all tensors of a model; large initializers are mapped."""
    weights: dict[str, np.ndarray] = {}
    files: dict[Path, MappedFile] = {}
    initializers = sum(map(uses_external_data, model.graph.initializer))  # which come first
    what = f"{label}: its external data can't be read"
    for place, tensor in enumerate(_outside(model)):
        data = _find(tensor, path.parent, label, what)
        new = place < initializers and tensor.name not in weights
        if new and lies_beside(to_numpy(tensor.data_type), data.length):
            if data.path not in files:
                files[data.path] = MappedFile.open(data.path)
            weights[tensor.name] = files[data.path].array(tensor, data.offset)
            tensor.CopyFrom(
                external_initializer(tensor.name, tensor.data_type, tensor.dims, tensor.doc_string)
            )
        else:
            _fill(tensor, data)
    sources = tuple(file.source for file in files.values())
    return LightModel(model, weights, sources, own_file=bool(weights))


def _fill(tensor: TensorProto, data: _Data) -> None:
    with data.path.open("rb") as file:
        file.seek(data.offset)
        fill(tensor, file.read(data.length))


def _outside(model: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model.graph):
        yield from (tensor for tensor in tensors(graph) if uses_external_data(tensor))
    for function in model.functions:
        for node in function.node:
            body = onnx.GraphProto()
            body.node.append(node)
            if any(uses_external_data(tensor) for tensor in tensors(body)):
                raise ReapError(
                    f"function {function.name}: a tensor of it lies in another file",
                    expected="tensors of functions in the model's own file",
                )


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _find(tensor: TensorProto, folder: Path, label: str, what: str) -> _Data:
    check_kind(tensor, label)
    entries = _entries(tensor)
    path = _inside(entries.get("location", ""), folder, what)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
        size = path.stat().st_size
    except ValueError as error:
        raise ReapError(what, got=str(error), expected="an undamaged file") from None
    except OSError as error:
        raise ReapError(
            what, got=f"{path}: {error.strerror}", hint="put the files that it names beside it"
        ) from None
    length = size - offset if length is None else length
    if min(offset, length) < 0 or offset + length > size or min(tensor.dims, default=0) < 0:
        raise ReapError(
            what,
            got=f"{path} of {size:,} bytes, tensor {tensor.name} from {offset:,} on: {length:,}",
            expected="a file that holds them, as it was written",
        )
    dtype, wanted = to_numpy(tensor.data_type), nbytes(tensor)
    if lies_beside(dtype, length) and length != wanted:
        raise ReapError(
            f"{what}: tensor {tensor.name}'s doesn't fill its shape",
            got=f"{length:,} bytes for {dtype.name} {list(tensor.dims)}",
            expected=f"{wanted:,} bytes, as in an undamaged file",
        )
    return _Data(path, offset, length)


def _inside(location: str, folder: Path, what: str) -> Path:
    """Return the file of that name, which must lie in a folder, also once links are followed."""
    within, name = folder.resolve(), Path(location)
    try:
        path = (folder / name).resolve()
        safe = not name.is_absolute() and ".." not in name.parts and path.is_relative_to(within)
        usable = not path.exists() or path.is_file()
    except (OSError, ValueError) as error:
        raise ReapError(what, got=f"{location!r}: {error}", expected="a file name") from None
    if not safe or not location:
        raise ReapError(
            what,
            got=repr(location),
            expected="a file in the model's own folder, named relative to it",
            hint="copy the file there and name it so",
        )
    if not usable:
        raise ReapError(what, got=str(path), expected="a file")
    return path
