"""Labels: the class of every sample."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from onnx_reap.data import Calibration
from onnx_reap.errors import ReapError
from onnx_reap.onnxio.dtypes import is_integer


def read_labels(labels: Any, samples: Calibration) -> np.ndarray:
    """Return the class of every sample, (samples of the source,) int array.

    Parameters
    ----------
    labels : path of .npy, or of .npz with one array or one that is called `labels`; or array_like

    Raises
    ------
    ReapError
        If they can't be read, or are not one whole number per sample.
    """
    try:
        values = np.load(labels) if isinstance(labels, (str, Path)) else np.asarray(labels)
        if isinstance(values, np.lib.npyio.NpzFile):
            values = values["labels" if "labels" in values.files else values.files[0]]
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile) as error:
        raise ReapError(
            f"--labels {labels}: can't be read",
            got=str(error),
            expected=".npy, or .npz with an array `labels`",
        ) from error
    values = values.squeeze() if values.size > 1 else values.ravel()
    if values.shape != (samples.total,) or not is_integer(values.dtype):
        raise ReapError(
            "--labels: not one class per sample",
            got=f"{values.dtype} {values.shape}",
            expected=f"{samples.total:,} whole numbers, in the order of --data",
        )
    return values
