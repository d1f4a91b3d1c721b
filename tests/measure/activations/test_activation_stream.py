"""Activations that are kept between runs."""

import numpy as np
import pytest

from onnx_reap.measure.activations.stream import Store

BATCHES = [
    {
        "layer/1:0": np.arange(24, dtype=np.float32).reshape(2, 3, 4) + start,
        "half": np.full((2, 1), start, np.float16),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "number": np.array(start),
        "nothing": np.zeros((0, 5), np.float32),
        "words": np.array(["a", "longer"], object),
    }
    for start in range(3)
]


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_store_gives_back_what_it_keeps(on_disk, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(on_disk=on_disk)
    for batch in BATCHES:
        store.append(batch)
    assert len(store) == len(BATCHES)
    assert bool([*tmp_path.rglob("*.npy")]) == on_disk
    for got, batch in zip(store, BATCHES, strict=True):
        assert list(got) == list(batch)
        for name, array in batch.items():
            assert got[name].dtype == array.dtype
            assert got[name].shape == array.shape
            assert (got[name] == array).all()
    store.close()
    assert list(tmp_path.iterdir()) == []
