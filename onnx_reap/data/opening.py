"""From whatever a user calls data to a `Calibration`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_reap.data.arrays import array_source, feed_source
from onnx_reap.data.calibration import Calibration, SampleSource
from onnx_reap.data.files import open_arrays
from onnx_reap.data.folder import FolderSource
from onnx_reap.data.preprocess import NO_FLAGS, Preprocess
from onnx_reap.data.spec import InputSpec
from onnx_reap.errors import ReapError

_KINDS = "a .npy or .npz file or a folder of images"


def open_calibration(
    data: Any,
    inputs: Sequence[InputSpec],
    preprocess: Preprocess = NO_FLAGS,
    *,
    samples: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Open calibration data of any kind; what is wrong with it is said here, or by its first batch.

    Parameters
    ----------
    data : path, array, mapping, iterable or CalibrationDataReader
        A ``.npy`` or ``.npz`` file or a folder of images; one array; arrays by name of the input;
        feeds (mappings, or arrays for a model with one input) of any batch size each; or an
        onnxruntime ``CalibrationDataReader``, which is rewound before and after if it can be.
        Files are memory-mapped and images decoded when they are needed; feeds are read once and
        kept, a stream only as far as `samples`.
    samples : int, optional
        Use at most so many, chosen at random; of a stream the first ones.

    Returns
    -------
    Calibration
        Its `notes` hold what the user should be warned of.
    """
    source = _source(data, inputs, preprocess, samples)
    calibration = Calibration(source)
    return calibration if samples is None else calibration.take(samples, seed)


def _source(
    data: Any, inputs: Sequence[InputSpec], preprocess: Preprocess, samples: int | None
) -> SampleSource:
    if isinstance(data, (str, os.PathLike)):
        return _path_source(Path(data), inputs, preprocess)
    recipes = preprocess.recipes(inputs)
    name = type(data).__name__
    if isinstance(data, Mapping) or hasattr(data, "__array__"):
        named = isinstance(data, Mapping)
        given = data if named else {"data": data}
        arrays = {key: np.asarray(value) for key, value in given.items()}
        return array_source(arrays, recipes, label="data", origin=name, named=named)
    is_reader = hasattr(data, "get_next")
    if not is_reader and not isinstance(data, Iterable):
        raise ReapError("data is of an unknown kind", got=name, expected=f"arrays, feeds, {_KINDS}")
    # A stream may hand out the same buffer again and again; what is in a sequence stays.
    stream = is_reader or not isinstance(data, Sequence)
    # A CalibrationDataReader is read from its start, and left there for who reads it next.
    rewind = getattr(data, "rewind", lambda: None) if is_reader else lambda: None
    rewind()
    items = iter(data.get_next, None) if is_reader else data
    feeds = (_feed(item, inputs, copy=stream) for item in items)
    limit = samples if stream else None
    source = feed_source(feeds, recipes, limit=limit, label="data", origin=name)
    rewind()
    return source


def _feed(item: Any, inputs: Sequence[InputSpec], *, copy: bool) -> dict[str, np.ndarray]:
    """Turn a mapping, or the array of the only input, into arrays by name of the input."""
    convert = np.array if copy else np.asarray
    feed = {inputs[0].name: item} if len(inputs) == 1 and not isinstance(item, Mapping) else item
    try:
        return {name: convert(value) for name, value in feed.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ReapError(
            "data yields something else than feeds",
            got=type(item).__name__,
            expected="mappings of input names to arrays",
        ) from error


def _path_source(path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess) -> SampleSource:
    if path.is_dir():
        return FolderSource(path, inputs, preprocess)
    if not path.exists():
        raise ReapError(f"--data {path} doesn't exist", expected=_KINDS, hint="check the path")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ReapError(f"--data {path} is of an unknown kind", expected=_KINDS)
    recipes = preprocess.recipes(inputs)
    label, named = f"--data {path}", path.suffix.lower() == ".npz"
    return array_source(open_arrays(path), recipes, label=label, origin=path.name, named=named)
