import itertools

import numpy as np
import pytest
from data_helpers import collect, refusal, spec
from onnxruntime.quantization import CalibrationDataReader

from onnx_reap.data import open_calibration

MODEL = spec(None, 3)
ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


def feeds():
    return [{"x": ROWS[:4]}, {"x": ROWS[4:5]}, {"x": ROWS[5:]}]


class Reader(CalibrationDataReader):
    def __init__(self):
        self.rewind()

    def rewind(self):
        self._feeds = iter(feeds())

    def get_next(self):
        return next(self._feeds, None)


class BareReader:
    """Neither iterable nor to be rewound."""

    def __init__(self):
        self._feeds = iter(feeds())

    def get_next(self):
        return next(self._feeds, None)


@pytest.mark.parametrize(
    "data",
    [
        feeds,
        lambda: (feed for feed in feeds()),
        lambda: tuple(ROWS),
        lambda: iter([ROWS[:7], ROWS[7:]]),
        Reader,
        BareReader,
        lambda: ROWS.tolist(),
    ],
)
def test_feeds_of_any_batch_size(data):
    calibration = open_calibration(data(), [MODEL])
    for _ in range(2):
        np.testing.assert_array_equal(collect(calibration), ROWS)


def test_a_reader_is_rewound_before_and_after():
    reader = Reader()
    reader.get_next()
    assert len(open_calibration(reader, [MODEL])) == 10
    np.testing.assert_array_equal(reader.get_next()["x"], ROWS[:4])


def test_a_stream_may_be_endless_and_reuse_its_buffer():
    def stream():
        buffer = np.empty((1, 3), np.float32)
        for number in itertools.count():
            buffer[:] = number
            yield {"x": buffer}

    calibration = open_calibration(stream(), [MODEL], samples=5)
    np.testing.assert_array_equal(collect(calibration)[:, 0], np.arange(5))


def test_a_stream_stops_after_the_samples_that_were_asked_for():
    source = iter(feeds())
    assert len(open_calibration(source, [MODEL], samples=3)) == 3
    assert len(list(source)) == 2


def test_samples_of_a_list_are_chosen_at_random_and_not_copied():
    calibration = open_calibration(list(ROWS), [MODEL], samples=4, seed=2)
    assert not np.array_equal(collect(calibration), ROWS[:4])
    assert np.shares_memory(calibration._source._columns["x"][0], ROWS)


def test_inputs_without_samples_must_not_change():
    inputs = [MODEL, spec(name="w")]
    same = [{"x": ROWS, "w": 2.0}, {"x": ROWS, "w": 2.0}]
    assert [feed["w"].tolist() for feed in open_calibration(same, inputs).batches(10)] == [2, 2]
    changed = [{"x": ROWS, "w": 2.0}, {"x": ROWS, "w": 3.0}]
    samples = open_calibration(changed, inputs)
    assert [feed["w"].tolist() for feed in samples.batches(1)] == [2, 3]
    assert str(samples.refusal) == (
        "feed 1 of data changes 'w', which has no batch axis "
        "| expected: the same value in every feed"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data yields no feeds | expected: 1 sample or more"),
        (
            [{"x": ROWS}, {"x": np.ones((1, 4))}],
            "feed 1 of data doesn't fit the model's inputs | got: x float64 (1, 4) "
            "| expected: x float32 (N, 3)",
        ),
        (
            [(ROWS, np.arange(10))],
            "data yields something else than feeds | got: tuple "
            "| expected: mappings of input names to arrays",
        ),
        (
            3,
            "data is of an unknown kind | got: int "
            "| expected: arrays, feeds, a .npy or .npz file or a folder of images",
        ),
    ],
)
def test_refusals(data, message):
    assert refusal(data, [MODEL]) == message


def test_arrays_cannot_feed_several_inputs():
    message = refusal([ROWS], [MODEL, spec(None, 3, name="y")])
    assert message.startswith("data yields something else than feeds | got: ndarray")


def test_samples_of_differing_shapes_are_no_rows():
    data = [np.ones((1, 12)), np.ones((2, 15))]
    assert str(open_calibration(data, [spec(None, None)]).refusal) == (
        "feed 1 of data has samples of another shape for 'x' | got: (15,) "
        "| expected: (12,), as in the first feed | try: pad or crop samples to one shape"
    )
