"""Items that are computed while others are used."""

import threading

import pytest

from onnx_reap.measure.ahead import one_ahead


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


def test_a_reader_may_stop():
    found = one_ahead(iter(range(100)))
    assert next(found) == 0
    found.close()
    assert [thread for thread in threading.enumerate() if "ThreadPool" in thread.name] == []
