"""Items that are computed while others are used."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from net import Net
from oracle import CPU

from onnx_reap.errors import ReapError
from onnx_reap.measure.ahead import one_ahead
from onnx_reap.measure.runner import run_batches
from onnx_reap.onnxio.light_model import LightModel


def test_they_come_in_order():
    assert list(one_ahead(iter(range(5)))) == list(range(5))
    assert list(one_ahead([])) == []
    assert list(one_ahead([None, 0, ""])) == [None, 0, ""]


def test_the_next_one_is_computed_while_one_is_used():
    computed = [threading.Event() for _ in range(3)]

    def items():
        for number, event in enumerate(computed):
            event.set()
            yield number

    for number in one_ahead(items()):
        assert all(event.wait(10) for event in computed[: number + 2])
        assert not any(event.is_set() for event in computed[number + 2 :])


def test_errors_reach_the_reader_in_their_place():
    def items():
        yield 1
        raise ValueError("broken")

    found = one_ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_an_error_in_the_data_reaches_the_caller():
    class Broken:
        def __len__(self):
            return 8

        def batches(self, size, pad):
            yield {"x": np.zeros((size, 2), np.float32)}
            raise ReapError("samples are broken")

    net = Net({"x": ("N", 2)})
    proto = net.model(net("Relu", "x"))
    analysis = SimpleNamespace(fixed_batch=None, providers=CPU)
    runs = run_batches(analysis, [LightModel.of(proto)], Broken(), outputs=["relu0_y"], batch=4)
    assert next(runs)[0] == 4
    with pytest.raises(ReapError, match="samples are broken"):
        next(runs)


def test_a_reader_may_stop():
    others = set(threading.enumerate())
    found = one_ahead(iter(range(100)))
    assert next(found) == 0
    assert set(threading.enumerate()) > others
    found.close()
    assert set(threading.enumerate()) == others
