"""Models from files and as the bytes of files, and what is wrong with them."""

import os
from dataclasses import replace
from pathlib import Path

import onnx
from onnx.external_data_helper import uses_external_data

from onnx_reap.errors import ReapError
from onnx_reap.onnxio.damage import check_kind, check_parts
from onnx_reap.onnxio.dtypes import nbytes
from onnx_reap.onnxio.external_data import data_files, read_external
from onnx_reap.onnxio.light_model import LightModel, without_weights

Source = str | os.PathLike[str] | onnx.ModelProto

LARGEST = 2**31 - 1
"""Bytes that fit one protobuf message, which is how models go to onnxruntime and to files."""


def load(source: Source) -> LightModel:
    """Read a model, or copy a proto, with its large weights beside the proto.

    Those that lie in other files than the model's are mapped.

    Raises
    ------
    ReapError
        If the file is missing, unreadable, damaged or not a whole ONNX model, or what is not in
        other files is larger than 2 GB.
    """
    if isinstance(source, onnx.ModelProto):
        _check(source, "the model", held=True)
        check_parts(source, "the model")
        heavy = sum(map(nbytes, source.graph.initializer)) > LARGEST
        return LightModel(*without_weights(source), own_file=heavy)
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
    model = read_external(proto, path, label)
    if (size := proto.ByteSize()) > LARGEST:
        raise _too_large(label, size)
    check_parts(proto, label, model.weights)
    light, weights = without_weights(proto)
    return replace(model, proto=light, weights={**weights, **model.weights})


def files_of_data(path: Path) -> list[Path]:
    """List the files that a model's weights lie in, besides its own; none if it can't be read.

    What is wrong with it is told when it is loaded.
    """
    try:
        return data_files(_parse(path, ""), path)
    except ReapError:
        return []


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
            f"{label}: holds no nodes",
            got="no graph",
            expected="an ONNX model with layers",
            hint="export or download the model again",
        )
    if not any(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        raise ReapError(
            f"{label}: names no standard operator set",
            got=", ".join(entry.domain for entry in proto.opset_import) or "none",
            expected="an opset_import of the domain ai.onnx",
        )
    for tensor in proto.graph.initializer:
        check_kind(tensor, label)
    outside = [t.name for t in proto.graph.initializer if uses_external_data(t)]
    if held and outside:
        raise ReapError(
            f"{label}: weights lie in other files",
            got=f"{outside[0]} and {len(outside) - 1} more",
            hint="pass the path of the file, or load it with its external data",
        )


def _too_large(label: str, size: int) -> ReapError:
    return ReapError(
        f"{label}: too large",
        got=f"{size / 1e9:.1f} GB",
        expected="less than 2 GB, what one protobuf message holds",
        hint="weights in external data: onnx.save(model, path, save_as_external_data=True)",
    )
