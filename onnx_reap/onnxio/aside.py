"""Weights that are set aside: they lie in files or arrays, and a model's proto only names them.

A protobuf message holds 2 GB, and whatever copies a message copies the weights in it. An
initializer that is set aside has no data; as its location stands a key, by which its array is found
here. So a proto may be copied, cut into parts and serialized for next to nothing, and weights exist
once.

Arrays of files are mapped into memory when they are asked for. Others live as long as somebody
else holds them, which is what a `graph.model.Model` is for.
"""

from __future__ import annotations

import mmap
import os
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_reap.errors import ReapError

SMALLEST = 1024
"""Bytes from which on a weight is worth it; shapes and scalars stay in sight."""

ALIGNMENT = 64
"""Bytes; in a file weights begin at multiples, where vector units like them."""

ENTRIES = 64
"""Bytes that it takes at most to say where a weight begins and how long it is."""

_KEY = f"onnx-reap:{secrets.token_hex(8)}:"  # which no file can name
_numbers = count()


Stamp = tuple[int, ...]
"""What tells a file from others that had or will have its name, and from itself once changed."""


@dataclass(frozen=True)
class Source:
    """A file that weights lie in, as it was when they were found."""

    path: Path
    stamp: Stamp


@dataclass(frozen=True)
class _Place:
    source: Source
    offset: int


class _Unclaimed(threading.local):
    """Arrays of the model that a thread loaded last, until a `Model` holds them."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}


_places: dict[str, _Place] = {}
_arrays: WeakValueDictionary[str, np.ndarray] = WeakValueDictionary()
_maps: WeakValueDictionary[Source, mmap.mmap] = WeakValueDictionary()
_unclaimed = _Unclaimed()


def fits(dtype: np.dtype | int, nbytes: int) -> bool:
    """Whether a weight can be set aside: large enough, and of numbers that NumPy itself has."""
    own = isinstance(dtype, np.dtype) and dtype.isbuiltin != 2 and dtype.kind in "biuf"
    return own and nbytes >= SMALLEST


def in_memory(name: str, array: np.ndarray) -> TensorProto:
    """Return an initializer that stands for an array, which the caller keeps alive.

    Parameters
    ----------
    array : ndarray, C-contiguous
        Not to be changed in place.
    """
    key = _new_key()
    _arrays[key] = array
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return _named(TensorProto(name=name, data_type=kind, dims=array.shape), key)


def in_file(tensor: TensorProto, path: Path, offset: int) -> TensorProto:
    """Return an initializer like `tensor` that stands for a place in a file."""
    key = _new_key()
    _places[key] = _Place(Source(path, _stamp(path.stat())), offset)
    kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    kept.doc_string = tensor.doc_string
    return _named(kept, key)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, with its large initializers set aside until a `Model` claims them."""
    _unclaimed.arrays.clear()
    light = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(light, field.name).extend(value)
        else:
            setattr(light, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            continue
        if field.is_repeated:
            getattr(light.graph, field.name).extend(value)
        else:
            setattr(light.graph, field.name, value)
    for tensor in model.graph.initializer:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if fits(dtype, int(np.prod(tensor.dims, dtype=object)) * dtype.itemsize):
            array = np.ascontiguousarray(numpy_helper.to_array(tensor))
            tensor = in_memory(tensor.name, array)
            _unclaimed.arrays[_key(tensor)] = array
        light.graph.initializer.append(tensor)
    return light


def claim(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the arrays of a model's initializers by name; the caller keeps them alive."""
    found = arrays(model)
    for tensor in model.graph.initializer:
        if is_aside(tensor):
            _unclaimed.arrays.pop(_key(tensor), None)
    return found


def is_aside(tensor: TensorProto) -> bool:
    """Whether a tensor's data is set aside."""
    return bool(tensor.external_data) and _key(tensor).startswith(_KEY)


def any_aside(model: onnx.ModelProto) -> bool:
    """Whether some of a model's weights are set aside."""
    return any(is_aside(tensor) for tensor in model.graph.initializer)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the arrays that are set aside, by name of the initializer."""
    return {t.name: to_array(t) for t in model.graph.initializer if is_aside(t)}


def to_array(tensor: TensorProto) -> np.ndarray:
    """Return a tensor's values, wherever they lie; those of a file can't be written to."""
    if not is_aside(tensor):
        return numpy_helper.to_array(tensor)
    key = _key(tensor)
    array = _arrays.get(key)
    if array is None:
        if key not in _places:
            raise LookupError(f"the values of {tensor.name} are gone: nobody held them")
        array = _arrays[key] = _mapped(_places[key], tensor)
    return array


def nbytes(tensor: TensorProto) -> int:
    """Count the bytes that a tensor's shape and type ask for, whole bytes an element."""
    itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return int(np.prod(tensor.dims, dtype=object)) * itemsize


def size_of(model: onnx.ModelProto) -> int:
    """Return the bytes of a model's file, or at most of both files if weights are set aside."""
    own = [aligned(nbytes(tensor)) for tensor in model.graph.initializer if is_aside(tensor)]
    return int(model.ByteSize()) + sum(own) + len(own) * ENTRIES


def aligned(at: int) -> int:
    """Return the next place in a file where a weight may begin."""
    return -(-at // ALIGNMENT) * ALIGNMENT


def whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that holds all its weights: itself, or a copy of one that does not."""
    if not any_aside(model):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        if is_aside(tensor):
            array = to_array(tensor)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = array.tobytes()
    return out


def with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose weights that are set aside are inputs, for what reads shapes alone."""
    if not any_aside(model):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    tensors = list(out.graph.initializer)
    listed = {value.name for value in out.graph.input}
    del out.graph.initializer[:]
    out.graph.initializer.extend(tensor for tensor in tensors if not is_aside(tensor))
    out.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in tensors
        if is_aside(tensor) and tensor.name not in listed
    )
    return out


def files_behind(model: onnx.ModelProto) -> frozenset[Source]:
    """Return the files that hold weights of a model."""
    keys = (_key(tensor) for tensor in model.graph.initializer if is_aside(tensor))
    return frozenset(_places[key].source for key in keys if key in _places)


def check_as_found(sources: Iterable[Source]) -> None:
    """Refuse files that changed since weights were found in them: arrays may have changed as well.

    Raises
    ------
    ReapError
    """
    for source in sources:
        try:
            now = _stamp(source.path.stat())
        except OSError:
            now = ()
        if now != source.stamp:
            raise _changed(source.path)


def _changed(path: Path) -> ReapError:
    return ReapError(
        f"{path}: changed since the model was read",
        expected="files that stay as they are until the pruned model is written",
        hint="run again",
    )


def let_go() -> None:
    """Give back the memory that files fill; what is read again is mapped again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for each in list(_maps.values()):
            each.madvise(mmap.MADV_DONTNEED)


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _new_key() -> str:
    return f"{_KEY}{next(_numbers)}"


def _key(tensor: TensorProto) -> str:
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def _named(tensor: TensorProto, key: str) -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=key)
    return tensor


def _mapped(place: _Place, tensor: TensorProto) -> np.ndarray:
    source = place.source
    mapped = _maps.get(source)
    if mapped is None:
        with source.path.open("rb") as file:
            if _stamp(os.fstat(file.fileno())) != source.stamp:
                raise _changed(source.path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _maps[source] = mapped
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    count = int(np.prod(tensor.dims, dtype=object))
    array = np.frombuffer(mapped, dtype, count, place.offset).reshape(tensor.dims)
    return np.require(array, dtype.newbyteorder("="), "A")
