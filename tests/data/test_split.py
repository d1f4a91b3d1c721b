"""What the samples of a run are warned of."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import spec

from onnx_reap.data.split import divide, open_samples
from onnx_reap.options import Settings

ONES = np.ones((40, 3), np.float32)
DIFFERENT = np.arange(120, dtype=np.float32).reshape(40, 3)


def warnings_of(inputs, data, **settings) -> list[str]:
    chosen = Settings(**settings)
    notes = divide(open_samples(inputs, data, chosen), chosen, made_up=False).notes
    return [note for note in notes if "is the same in all" in note]


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("settings", [{}, {"lossless": True}])
def test_identical_samples_are_told(dtype, settings):
    inputs = [spec(None, 3, dtype=dtype)]
    (note,) = warnings_of(inputs, ONES.astype(dtype), **settings)
    assert note.startswith("input x is the same in all of 16 samples") and "--data" in note
    assert warnings_of(inputs, DIFFERENT.astype(dtype), **settings) == []


def test_one_sample_is_like_no_other():
    assert warnings_of([spec(None, 3)], ONES[:1]) == []


def test_masks_may_be_the_same_and_features_may_not():
    inputs = [spec(None, 3, name="ids", dtype="int64"), spec(None, 3, name="mask", dtype="int64")]
    assert warnings_of(inputs, {"ids": DIFFERENT.astype(int), "mask": ONES.astype(int)}) == []
    inputs = [spec(None, 3, name="a"), spec(None, 3, name="b")]
    (note,) = warnings_of(inputs, {"a": DIFFERENT, "b": ONES})
    assert note.startswith("input b ")


def test_what_is_fed_whole_is_no_sample():
    inputs = [spec(None, 3, name="a"), spec(2, 2, name="state")]
    assert warnings_of(inputs, {"a": DIFFERENT, "state": np.zeros((2, 2))}) == []
