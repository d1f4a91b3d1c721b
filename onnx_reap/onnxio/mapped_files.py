"""Files that weights lie in: mapped into memory, and recognised if they change."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import nbytes, to_numpy

Stamp = tuple[int, ...]
"""What tells a file from others of its name, and from itself once changed."""


@dataclass(frozen=True)
class WeightFile:
    """A file that weights lie in, as it was when it was opened."""

    path: Path
    stamp: Stamp

    def check_unchanged(self) -> None:
        """Refuse a file that changed: arrays that are mapped from it may have changed as well.

        Raises
        ------
        ReapError
        """
        try:
            now = _stamp(self.path.stat())
        except OSError:
            now = ()
        if now != self.stamp:
            raise ReapError(
                f"{self.path}: changed since the model was read",
                expected="files that stay as they are until the pruned model is written",
                hint="run again",
            )


@dataclass(frozen=True)
class MappedFile:
    """A file whose bytes are read when they are used, and can't be written to."""

    source: WeightFile
    content: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> MappedFile:
        """Map a file that is not empty."""
        with path.open("rb") as file:
            source = WeightFile(path, _stamp(os.fstat(file.fileno())))
            return cls(source, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def array(self, tensor: TensorProto, offset: int) -> np.ndarray:
        """Return the values of a tensor that begin at a byte; they keep the file mapped."""
        dtype = to_numpy(tensor.data_type)
        little, count = dtype.newbyteorder("<"), nbytes(tensor) // dtype.itemsize
        array = np.frombuffer(self.content, little, count, offset).reshape(tensor.dims)
        return np.require(array, dtype, "A")


def release_memory(arrays: Iterable[np.ndarray]) -> None:
    """Give back the memory that mapped files fill; what is used again is read again."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    found = (_map_behind(array) for array in arrays)
    for content in {id(each): each for each in found if each is not None}.values():
        content.madvise(mmap.MADV_DONTNEED)


def _map_behind(array: np.ndarray) -> mmap.mmap | None:
    behind: object = array
    while isinstance(behind, np.ndarray):
        behind = behind.base
    behind = behind.obj if isinstance(behind, memoryview) else behind
    return behind if isinstance(behind, mmap.mmap) else None


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
