"""Arrays in files, memory-mapped so that a large set is never read as a whole."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from onnx_reap.errors import ReapError

# Where a zip entry's header keeps the lengths of the name and the extra field that follow it.
_NAME_LENGTHS = 26

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """Open a ``.npy`` file, whose array is named after the file, or a ``.npz`` file.

    Returns
    -------
    mapping of str to numpy.ndarray
        Read-only memory maps. Only compressed arrays are read, whole, when they are looked up.

    Raises
    ------
    ReapError
        If the file can't be read, or an array in it holds Python objects.
    """
    if path.suffix.lower() == ".npz":
        return _Npz(path)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return {path.stem: array}


class _Npz(Mapping[str, np.ndarray]):
    """The arrays of a ``.npz`` file; NumPy itself never memory-maps these."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        except (OSError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from error
        self._members = {info.filename.removesuffix(".npy"): info for info in members}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        member = self._members[name]
        stored = member.compress_type == zipfile.ZIP_STORED
        try:
            return self._map(member.header_offset) if stored else self._load(name)
        except (OSError, ValueError, struct.error, zipfile.BadZipFile, zlib.error) as error:
            raise _unreadable(self._path, error, name) from error

    def _load(self, name: str) -> np.ndarray:
        with np.load(self._path, allow_pickle=False) as arrays:
            result: np.ndarray = arrays[name]
            return result

    def _map(self, entry: int) -> np.ndarray:
        """Map an uncompressed array: after the entry's header lies a whole ``.npy`` file."""
        with self._path.open("rb") as file:
            file.seek(entry + _NAME_LENGTHS)
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            if version not in _READ_HEADER:
                raise ValueError(f"array format {version}")
            shape, fortran, dtype = _READ_HEADER[version](file)
            if dtype.hasobject:
                raise ValueError("an array of Python objects")
            order: Literal["C", "F"] = "F" if fortran else "C"
            return np.memmap(self._path, dtype, "r", file.tell(), shape, order)


def _unreadable(path: Path, error: Exception, name: str | None = None) -> ReapError:
    where = f"--data {path}" if name is None else f"array {name!r} of --data {path}"
    return ReapError(
        f"{where} can't be read",
        got=str(error) or type(error).__name__,
        expected="a whole .npy or .npz file of numbers or str",
    )
