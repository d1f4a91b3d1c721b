"""Models from files and as the bytes of files, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.integrity import check_kind, check_parts

Source = str | os.PathLike[str] | onnx.ModelProto

LARGEST = 2**31 - 1
"""Bytes that fit one protobuf message, which is how models go to onnxruntime and to files."""


def load(source: Source) -> onnx.ModelProto:
    """Read a model; a path is read with its external data, a proto is taken as it is.

    Raises
    ------
    ReapError
        If the file is missing, unreadable, damaged, not a whole ONNX model, or larger than 2 GB.
    """
    if isinstance(source, onnx.ModelProto):
        _check(source, "the model", held=True)
        check_parts(source, "the model")
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise ReapError(
            "model is of an unknown kind",
            got=type(source).__name__,
            expected="a path or an onnx.ModelProto",
        )
    path = Path(source)
    label = f"model file {path}"
    proto = _parse(path, label)
    _check(proto, label, held=False)
    _read_external(proto, path, label)
    check_parts(proto, label)
    return proto


def to_bytes(model: onnx.ModelProto) -> bytes:
    """Return a model as the bytes of its file, the same for the same model.

    Raises
    ------
    ReapError
        If it is larger than 2 GB.
    """
    try:
        return model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ReapError(
            "the pruned model doesn't fit a file", got=str(error), expected="less than 2 GB"
        ) from error


def _parse(path: Path, label: str) -> onnx.ModelProto:
    """Read a model without the data that lies in other files."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise _too_large(label, size)
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ReapError(f"{label}: not found", hint="check the path") from None
    except OSError as error:
        raise ReapError(
            f"{label}: can't be read", got=error.strerror or str(error), expected="a file"
        ) from None
    except ReapError:
        raise
    except Exception as error:  # parsers raise what they like, protobuf's own class among it
        raise ReapError(
            f"{label}: not an ONNX model",
            got=f"{type(error).__name__}: {error}",
            expected="a whole file that onnx.load reads",
        ) from None


def _check(proto: onnx.ModelProto, label: str, *, held: bool) -> None:
    """Refuse what is no model; `held` demands that its weights are there."""
    if not proto.graph.node:
        raise ReapError(
            f"{label}: holds no nodes", got="no graph", expected="an ONNX model with layers"
        )
    if not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        raise ReapError(
            f"{label}: names no standard operator set",
            got=", ".join(entry.domain for entry in proto.opset_import) or "none",
            expected="an opset_import of the domain ai.onnx",
        )
    for tensor in proto.graph.initializer:
        check_kind(tensor, label)
    if (size := _weight_bytes(proto.graph.initializer)) > LARGEST:
        raise _too_large(label, size)
    outside = [t.name for t in proto.graph.initializer if uses_external_data(t)]
    if held and outside:
        raise ReapError(
            f"{label}: weights lie in other files",
            got=f"{outside[0]} and {len(outside) - 1} more",
            hint="pass the path of the file, or load it with its external data",
        )


def _weight_bytes(tensors: Iterable[onnx.TensorProto]) -> int:
    """Count bytes of weights, also of those that aren't read yet."""
    total = 0
    for tensor in tensors:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        total += len(tensor.raw_data) or int(np.prod(tensor.dims, dtype=object)) * itemsize
    return total


def _too_large(label: str, size: int) -> ReapError:
    return ReapError(
        f"{label}: too large",
        got=f"{size / 1e9:.1f} GB",
        expected="less than 2 GB, what one protobuf message holds",
        hint="float16 weights, or parts of the model one by one",
    )


def _read_external(proto: onnx.ModelProto, path: Path, label: str) -> None:
    try:
        load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ReapError(
            f"{label}: its external data can't be read",
            got=str(error),
            hint="put the files that it names beside it",
        ) from None
